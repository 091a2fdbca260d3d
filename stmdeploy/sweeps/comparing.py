"""Every row of a sweep compared with others: those it took turns with, and by a third row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, combinations, pairwise

from stmdeploy.measure.calm import Taken, compared
from stmdeploy.measure.contrasts import FEWEST_WAVES, Contrast, contrasts, wave_difference
from stmdeploy.results.state import DONE, FAILED, PlannedRow
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row, RowContrast
from stmdeploy.spec.units import MS_PER_S

#: The turns of a row, by wave.
Waves = Mapping[int, Taken]
#: How a row compares with others, by their keys.
Contrasts = dict[str, Contrast]


def compare(store: Store, sweep: str) -> None:
    """Saves with every finished row of a sweep how it compares with the others, by its waves."""
    keys = {planned.position: planned.key for planned in store.planned(sweep)}
    rows = store.measured(sweep)
    batches = {keys[p]: row.batch for p, row in rows.items()}
    waves = {keys[p]: waves_of(store.processes(sweep, p)) for p in rows}
    found = contrasts_of(waves, batches)
    for position, row in rows.items():
        _save(store, sweep, position, row, found[keys[position]])


def waves_of(processes: Sequence[ProcessRun]) -> Waves:
    """The turns of processes that took them with others."""
    found: dict[int, Taken] = {}
    for process in processes:
        if process.wave is not None:
            edges = list(pairwise(accumulate(process.turns, initial=0)))
            samples, waited = ([one[a:b] for a, b in edges if one]
                               for one in (process.samples_ms, process.waited_ms))  # fmt: skip
            found[process.wave] = Taken(samples, waited, MS_PER_S * process.others_s)
    return found


def contrasts_of(waves: Mapping[str, Waves], batches: Mapping[str, int]) -> dict[str, Contrasts]:
    """The contrasts of rows, by their keys, with all that were in enough waves with them.

    Pairs of one kind share what they know of their spread: a machine that slows down slows large
    batches more than small ones, so pairs of different batches lie far further apart than others.
    """
    found: dict[str, Contrasts] = {key: {} for key in waves}
    kinds: defaultdict[frozenset[int], dict[tuple[str, str], list[float]]] = defaultdict(dict)
    for one, other in combinations(waves, 2):
        shared = sorted(waves[one].keys() & waves[other].keys())
        if len(shared) >= FEWEST_WAVES:
            turns = ((waves[one][wave], waves[other][wave]) for wave in shared)
            kind = frozenset((batches[one], batches[other]))
            kinds[kind][one, other] = [wave_difference(*compared(*both)) for both in turns]
    for pairs in kinds.values():
        for (one, other), between in zip(pairs, contrasts(list(pairs.values())), strict=True):
            found[one][other], found[other][one] = between, between.turned()
    return found


def as_document(contrasts: Contrasts) -> tuple[RowContrast, ...]:
    """Contrasts as a row keeps them."""
    return tuple(
        RowContrast(key=key, difference=one.difference, error=one.error, freedom=one.freedom)
        for key, one in contrasts.items()
    )


def compare_by_reference(store: Store, sweep: str) -> None:
    """Compares rows of different blocks, too: those of one batch by the reference, with which both
    took turns, and the reference itself with rows of whose blocks it was a guest."""
    spec = store.asked(sweep)
    by_node: defaultdict[str, list[PlannedRow]] = defaultdict(list)
    for planned in store.planned(sweep):
        if planned.state != FAILED:
            by_node[planned.row.run.node].append(planned)
    for rows in by_node.values():
        keys = {planned.row: planned.key for planned in rows}
        reference = spec.reference_of(list(keys))
        if reference is not None:
            finished = [planned for planned in rows if planned.state == DONE]
            _compare_by(keys[reference], finished, store, sweep)


def _compare_by(reference: str, rows: Sequence[PlannedRow], store: Store, sweep: str) -> None:
    """One row is held whole at a time, for a sweep may have many."""
    to_reference: Contrasts = {}
    by_batch: defaultdict[int, list[str]] = defaultdict(list)
    for planned in rows:
        row = store.row_so_far(sweep, planned.position)
        stored = _stored(row.contrasts) if row is not None else {}
        if reference in stored:
            to_reference[planned.key] = stored[reference]
            by_batch[planned.row.run.batch].append(planned.key)
    for planned in rows:
        row, key = store.row_so_far(sweep, planned.position), planned.key
        if row is None:
            continue
        found = _stored(row.contrasts)
        if key == reference:
            mirrored = {other: one.turned() for other, one in to_reference.items()}
            _save(store, sweep, planned.position, row, {**mirrored, **found})
        elif key in to_reference:
            others = {
                other: to_reference[key] - to_reference[other]
                for other in by_batch[planned.row.run.batch]
                if other != key
            }
            _save(store, sweep, planned.position, row, {**others, **found})


def _stored(contrasts: Iterable[RowContrast]) -> Contrasts:
    return {one.key: Contrast(one.difference, one.error, one.freedom) for one in contrasts}


def _save(store: Store, sweep: str, position: int, row: Row, contrasts: Contrasts) -> None:
    kept = as_document(contrasts)
    if row.contrasts != kept:
        store.explain_row(sweep, position, row.model_copy(update={"contrasts": kept}))
