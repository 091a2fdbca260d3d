"""What counts of a row over all sweeps: its newest measurement or failure, its best evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from stmdeploy.schema.evaluation import Evaluation
from stmdeploy.schema.row import Row

_age, _place = attrgetter("row.started_utc"), attrgetter("sweep", "position")


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
    return sorted(newest.values(), key=_place)


def newest_states(
    measured: Sequence[Entry], failed: Sequence[Entry]
) -> tuple[list[Entry], list[Entry]]:
    """The two parts of `NewestRows`: entries that stand for rows, and those that failed since."""
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
    return sorted(rows, key=_place), sorted(since, key=_place)


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


def with_accuracy(found: Iterable[Entry], evaluations: Sequence[Evaluation]) -> tuple[Row, ...]:
    """Rows, each with the evaluation over the most images, of equal ones the newest.

    A quick look at a few images does not take the place of a whole data set.
    """
    by_size = sorted(evaluations, key=lambda e: (e.images, e.created_utc))
    best = {(e.artifact_sha256, e.runtime, e.provider): e for e in by_size}

    def of_row(row: Row) -> Evaluation | None:
        facts = row.measurement.runtime_facts if row.measurement else {}
        return best.get((str(row.artifact_sha256), row.runtime, facts.get("provider", "")))

    return tuple(e.row.model_copy(update={"accuracy": of_row(e.row)}) for e in found)
