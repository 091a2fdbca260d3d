"""Which of a row's results counts: its newest measurement or failure, its largest evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from stmdeploy.schema.evaluation import Evaluation
from stmdeploy.schema.row import Row

_age, _place = attrgetter("row.started_utc"), attrgetter("sweep", "position")


@dataclass(frozen=True)
class Entry:
    """A row in one sweep; ``key`` is that of its specification, the same in every sweep."""

    key: str
    sweep: str
    position: int
    row: Row


@dataclass(frozen=True)
class NewestRows:
    """Every row once, and what went wrong after it was measured.

    Attributes:
        rows: the newest measurement of every row, or the newest failure of one never measured.
        failed_since: the newest failures of rows whose measurement is older.
    """

    rows: tuple[Row, ...]
    failed_since: tuple[Row, ...]

    def only(self, task: str) -> NewestRows:
        """Those of one task."""
        mine, since = (
            tuple(row for row in rows if row.task == task)
            for rows in (self.rows, self.failed_since)
        )
        return NewestRows(mine, since)


def newest_measured(entries: Iterable[Entry]) -> list[Entry]:
    """The newest entry of every row, sweep by sweep.

    The same specification on another machine, or lowered differently, counts as another row.
    """
    newest: dict[tuple[str | None, ...], Entry] = {}
    for entry in sorted(entries, key=_age):
        row = entry.row
        newest[entry.key, row.lowering, row.device_name, row.environment.processor] = entry
    return sorted(newest.values(), key=_place)


def newest_states(
    measured: Sequence[Entry], failed: Sequence[Entry]
) -> tuple[list[Entry], list[Entry]]:
    """The entries of the two parts of `NewestRows`."""
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
    """Whether a failure and another entry are of the same row.

    A failed export has no lowering. A failure on a cluster has no known device, but the kind of
    its node is in the key.
    """
    one, two = failed.row, other.row
    if failed.key != other.key or one.lowering not in (None, two.lowering):
        return False
    here = (one.device_name, one.environment.processor)
    return bool(one.node) or here == (two.device_name, two.environment.processor)


def with_accuracy(found: Iterable[Entry], evaluations: Sequence[Evaluation]) -> tuple[Row, ...]:
    """Rows, each with its evaluation over the most images; the newest of several such.

    So a quick look at a few images does not replace one over a whole data set.
    """
    by_size = sorted(evaluations, key=lambda e: (e.images, e.created_utc))
    best = {(e.artifact_sha256, e.runtime, e.provider): e for e in by_size}

    def of_row(row: Row) -> Evaluation | None:
        facts = row.measurement.runtime_facts if row.measurement else {}
        return best.get((str(row.artifact_sha256), row.runtime, facts.get("provider", "")))

    return tuple(e.row.model_copy(update={"accuracy": of_row(e.row)}) for e in found)
