"""What is promised of ratios and intervals, on simulated machines, through the very functions.

By day a few hundred sweeps of every situation; at night `SWEEPS` of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

import numpy as np
import pytest

from stmdeploy.measure.contrasts import contrast, wave_difference
from stmdeploy.measure.statistics import row_interval
from tests.measure.machines import SITUATIONS, Plan, SimulatedMachine, simulate

SWEEPS = 2000
PLAN = Plan()


@dataclass(frozen=True)
class Outcome:
    """Shares of intervals that held the truth, and median half-widths in per cent."""

    ratios_covered: float
    ratio_half_width: float
    latencies_covered: float
    latency_half_width: float


def population_ms(machine: SimulatedMachine) -> float:
    """The median over processes of the first row's median, from very many waves."""
    plan, random = Plan(waves=60), np.random.default_rng(99)
    sweeps = [np.median(simulate(machine, plan, random)[:, 0], (1, 2)) for _ in range(100)]
    return float(np.median(np.concatenate(sweeps)))


def outcome(machine: SimulatedMachine, sweeps: int) -> Outcome:
    """Measures so many sweeps, every row beside the first."""
    random, truth_ms = np.random.default_rng(1), population_ms(machine)
    ratios, widths, latencies, own_widths = [], [], [], []
    for _ in range(sweeps):
        taken = simulate(machine, PLAN, random).tolist()
        for row, latency_ms in enumerate(PLAN.latencies_ms[1:], 1):
            found = contrast([wave_difference(wave[row], wave[0]) for wave in taken]).ratio()
            ratios.append(found.low <= latency_ms / PLAN.latencies_ms[0] <= found.high)
            widths.append(found.half_width_percent)
        own = row_interval([median(x for turn in wave[0] for x in turn) for wave in taken])
        latencies.append(own.low <= truth_ms <= own.high)
        own_widths.append(own.half_width_percent)
    return Outcome(
        float(np.mean(ratios)), median(widths), float(np.mean(latencies)), median(own_widths)
    )


def check(name: str, sweeps: int) -> None:
    found = outcome(SITUATIONS[name], sweeps)
    print(f"\n{name}, {sweeps} sweeps: {found}")  # noqa: T201
    # 94 and 93 %, less three standard errors of these estimates.
    assert found.ratios_covered >= 0.94 - 3 * math.sqrt(0.94 * 0.06 / sweeps)
    assert found.latencies_covered >= 0.93 - 3 * math.sqrt(0.93 * 0.07 / sweeps)
    limits = {"quiet": 2.0, "shared": 2.0, "busy": 2.5}
    assert found.ratio_half_width <= limits.get(name, math.inf)


@pytest.mark.parametrize("name", SITUATIONS)
def test_intervals_hold_the_truth(name: str) -> None:
    check(name, 150)


@pytest.mark.nightly
@pytest.mark.parametrize("name", SITUATIONS)
def test_intervals_hold_the_truth_at_length(name: str) -> None:
    check(name, SWEEPS)
