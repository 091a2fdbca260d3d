"""Which of a row's results counts: its newest measurement or failure, its largest evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from stmdeploy.schema.evaluation import Evaluation
from stmdeploy.schema.invariance import Invariance
from stmdeploy.schema.receptive_field import ReceptiveField
from stmdeploy.schema.row import Row

#: Fields of a row that are measured apart from it.
APART = ("accuracy", "invariance", "receptive_field")
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
    return sorted((same[-1] for same in by_row(entries)), key=_place)


def by_row(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries of the same row together, the oldest first.

    The same specification on another machine, or lowered differently, counts as another row.
    """
    found: dict[tuple[str | None, ...], list[Entry]] = {}
    for entry in sorted(entries, key=_age):
        row = entry.row
        same = entry.key, row.lowering, row.device_name, row.environment.processor
        found.setdefault(same, []).append(entry)
    return list(found.values())


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


def with_accuracy(
    found: Iterable[Entry],
    evaluations: Sequence[Evaluation],
    invariances: Sequence[Invariance] = (),
    receptive_fields: Sequence[ReceptiveField] = (),
) -> tuple[Row, ...]:
    """Rows, each with its evaluation and its invariance over the most images, the newest of several
    such, and of invariances first of all that to the most transforms; and with the receptive fields
    of its network.

    So a quick look at a few images does not replace one over a whole data set.
    """
    by_size = sorted(evaluations, key=lambda e: (e.images, e.created_utc))
    accuracy = {_subject(e): e for e in by_size}
    by_views = sorted(invariances, key=lambda i: (len(i.curves), i.images, i.created_utc))
    invariance = {_subject(i): i for i in by_views}

    fields = {(f.weights_sha256, f.task, f.image_size): f for f in receptive_fields}

    def of_row(row: Row) -> Row:
        facts = row.measurement.runtime_facts if row.measurement else {}
        key = str(row.artifact_sha256), row.runtime, facts.get("provider", "")
        more = (
            accuracy.get(key),
            invariance.get(key),
            fields.get((row.weights_sha256, row.task, row.image_size or (0, 0))),
        )
        return row.model_copy(update=dict(zip(APART, more, strict=True)))

    return tuple(of_row(entry.row) for entry in found)


def _subject(measured: Evaluation | Invariance) -> tuple[str, str, str]:
    return measured.artifact_sha256, measured.runtime, measured.provider
