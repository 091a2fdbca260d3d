"""Which of the measurements and failures of a row is its newest, over all sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stmdeploy.results.row import Row


@dataclass(frozen=True)
class Entry:
    """A row as one sweep has it; ``key`` is its spec's, the same in every sweep."""

    key: str
    sweep: str
    position: int
    row: Row


@dataclass(frozen=True)
class NewestRows:
    """Every row once, and what went wrong after it was measured.

    ``rows``: the newest measurement of every row; of a row that was never measured, its newest
    failure. ``failed_since``: failures of rows that were measured before, and not since.
    """

    rows: tuple[Row, ...]
    failed_since: tuple[Row, ...]


def newest_measured(entries: Iterable[Entry]) -> list[Entry]:
    """The newest of every row, sweep by sweep.

    The same row on another machine, or of another lowering, is another one.
    """
    newest: dict[tuple[str | None, ...], Entry] = {}
    for entry in sorted(entries, key=_age):
        row = entry.row
        newest[entry.key, row.lowering, row.device_name, row.environment.processor] = entry
    return _ordered(newest.values())


def newest_states(
    measured: Sequence[Entry], failed: Sequence[Entry]
) -> tuple[list[Entry], list[Entry]]:
    """As `NewestRows` says: the entries that stand for the rows, and those that failed since."""
    found = newest_measured(measured)
    rows, since = list(found), []
    later: list[Entry] = []
    for entry in sorted(failed, key=_age, reverse=True):
        if any(_is_same(entry, other) for other in later):
            continue
        later.append(entry)
        before = [other for other in found if _is_same(entry, other)]
        if not before:
            rows.append(entry)
        elif _age(entry) > max(map(_age, before)):
            since.append(entry)
    return _ordered(rows), _ordered(since)


def _is_same(failed: Entry, other: Entry) -> bool:
    """Whether a failed row is of the same row as another entry.

    What could not be exported has no lowering; and of a cluster's node that failed, the device is
    not known, but its kind is in the key.
    """
    one, two = failed.row, other.row
    if failed.key != other.key or one.lowering not in (None, two.lowering):
        return False
    here = (one.device_name, one.environment.processor)
    return bool(one.node) or here == (two.device_name, two.environment.processor)


def _age(entry: Entry) -> str:
    return entry.row.started_utc


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.sweep, entry.position))
