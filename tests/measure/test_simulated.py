"""What is promised of ratios and intervals, on simulated machines, through the very functions.

By day a few hundred sweeps of every situation; at night `SWEEPS` of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np
import pytest

from stmdeploy.measure.contrasts import contrasts, wave_difference
from stmdeploy.measure.summary import summarize
from stmdeploy.schema.measurement import Measurement, ProcessRun
from stmdeploy.spec.run import RunSpec
from tests.measure.machines import SITUATIONS, Plan, SimulatedMachine, simulate

MakeProcess = Callable[..., ProcessRun]
SWEEPS = 2000
PLAN = Plan()
RUN = RunSpec("onnxruntime", 1, 1)
#: Half-widths of ratios in per cent that are promised, median over the ratios.
WIDEST_PERCENT = {"quiet": 2.0, "shared": 2.0, "busy": 2.5}


@dataclass(frozen=True)
class Outcome:
    """What came of many sweeps: whether each interval held the truth, and half-widths in per cent.

    Attributes:
        ratios, ratio_half_widths: of every row over the first one.
        latencies: of the first row, by whether it was marked as unsteady.
    """

    ratios: list[bool]
    ratio_half_widths: list[float]
    latencies: dict[bool, list[bool]]

    def __str__(self) -> str:
        marked = {mark: f"{100 * np.mean(held):.1f} % of {len(held)}"
                  for mark, held in self.latencies.items() if held}  # fmt: skip
        return (f"ratios cover {100 * np.mean(self.ratios):.1f} %, half-width "
                f"{median(self.ratio_half_widths):.2f} %; latencies without ~ "
                f"{marked.get(False, 'none')}, with ~ {marked.get(True, 'none')}")  # fmt: skip


def population_ms(machine: SimulatedMachine) -> float:
    """The median over processes of the first row's median, from very many waves."""
    plan, random = Plan(waves=60), np.random.default_rng(99)
    sweeps = [np.median(simulate(machine, plan, random)[:, 0], (1, 2)) for _ in range(100)]
    return float(np.median(np.concatenate(sweeps)))


def outcome(machine: SimulatedMachine, sweeps: int, make: MakeProcess) -> Outcome:
    """Measures so many sweeps."""
    random, truth_ms = np.random.default_rng(1), population_ms(machine)
    found = Outcome([], [], {False: [], True: []})
    pairs = list(combinations(range(len(PLAN.latencies_ms)), 2))
    for _ in range(sweeps):
        waves = simulate(machine, PLAN, random).tolist()
        compared = contrasts(
            [[wave_difference(wave[row], wave[other]) for wave in waves] for other, row in pairs]
        )
        for (other, row), one in zip(pairs, compared, strict=True):
            if other == 0:
                ratio, truth = one.ratio(), PLAN.latencies_ms[row] / PLAN.latencies_ms[0]
                found.ratios.append(ratio.low <= truth <= ratio.high)
                found.ratio_half_widths.append(ratio.half_width_percent)
        own = first_row(waves, make)
        held = own.latency_ms_p50_low <= truth_ms <= own.latency_ms_p50_high
        found.latencies[not own.steady].append(held)
    return found


def first_row(waves: list[list[list[list[float]]]], make: MakeProcess) -> Measurement:
    """The figures of the first row, as a sweep has them."""
    processes = [
        make(
            samples_ms=tuple(ms for turn in wave[0] for ms in turn),
            turns=tuple(map(len, wave[0])),
            wave=number,
        )
        for number, wave in enumerate(waves)
    ]
    return summarize(processes, RUN)


def least(share: float, count: int) -> float:
    """The promised share, less three standard errors of its estimate."""
    return share - 3 * math.sqrt(share * (1 - share) / count)


def check(name: str, sweeps: int, make: MakeProcess) -> None:
    found = outcome(SITUATIONS[name], sweeps, make)
    print(f"\n{name}, {sweeps} sweeps: {found}")  # noqa: T201
    assert np.mean(found.ratios) >= least(0.94, sweeps)
    for held in found.latencies.values():
        assert not held or np.mean(held) >= least(0.93, len(held))
    assert median(found.ratio_half_widths) <= WIDEST_PERCENT.get(name, math.inf)


@pytest.mark.parametrize("name", SITUATIONS)
def test_intervals_hold_the_truth(name: str, make_process: MakeProcess) -> None:
    check(name, 150, make_process)


@pytest.mark.nightly
@pytest.mark.parametrize("name", SITUATIONS)
def test_intervals_hold_the_truth_at_length(name: str, make_process: MakeProcess) -> None:
    check(name, SWEEPS, make_process)
