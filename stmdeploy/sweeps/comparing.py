"""Every row of a sweep compared with every other that it took turns with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, combinations, pairwise

from stmdeploy.measure.contrasts import FEWEST_WAVES, Contrast, Turns, contrast, wave_difference
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import RowContrast

#: The turns of a row, by wave.
Waves = dict[int, Turns]


def compare(store: Store, sweep: str) -> None:
    """Saves with every finished row of a sweep how it compares with the others."""
    rows = store.measured(sweep)
    keys = {planned.position: planned.key for planned in store.planned(sweep)}
    waves = {position: waves_of(store.processes(sweep, position)) for position in rows}
    found: dict[int, list[RowContrast]] = {position: [] for position in rows}
    for one, other in combinations(rows, 2):
        between = direct(waves[one], waves[other]) or _by_third(one, other, waves)
        if between is not None:
            found[one].append(_said(keys[other], between))
            found[other].append(_said(keys[one], between.turned()))
    for position, contrasts in found.items():
        row = rows[position]
        if row.contrasts != tuple(contrasts):
            changed = row.model_copy(update={"contrasts": tuple(contrasts)})
            store.explain_row(sweep, position, changed)


def waves_of(processes: Sequence[ProcessRun]) -> Waves:
    """The samples of processes that took turns with others, turn by turn."""
    found: Waves = {}
    for process in processes:
        if process.wave is not None:
            edges = pairwise(accumulate(process.turns, initial=0))
            found[process.wave] = [process.samples_ms[a:b] for a, b in edges]
    return found


def direct(one: Waves, other: Waves) -> Contrast | None:
    """The contrast of two rows from the waves that both were in; None if there are too few."""
    shared = sorted(one.keys() & other.keys())
    if len(shared) < FEWEST_WAVES:
        return None
    return contrast([wave_difference(one[wave], other[wave]) for wave in shared])


def _by_third(one: int, other: int, waves: dict[int, Waves]) -> Contrast | None:
    """The contrast of two rows of different blocks, by the row that both took turns with."""
    for third, theirs in waves.items():
        if third not in (one, other):
            first, second = direct(waves[one], theirs), direct(waves[other], theirs)
            if first is not None and second is not None:
                return first - second
    return None


def _said(key: str, found: Contrast) -> RowContrast:
    return RowContrast(
        key=key, difference=found.difference, error=found.error, freedom=found.freedom
    )
