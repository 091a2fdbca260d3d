"""Simulated machines: how long inferences take that run by turns, with known true latencies.

What disturbs a latency multiplies it. A process is off as a whole (memory lies elsewhere; now and
then by much; or it is in one of two modes), the machine drifts, has slow spells that hit all rows
or one alone, and single inferences vary, each like the one before (AR(1)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stmdeploy.spec.run import SamplingSpec

#: Seconds from the start of a wave to its first turn, for each row: processes start and warm up.
_START_S = 1.0
#: Seconds of the machine's state that one value describes.
_TICK_S = 0.05


@dataclass(frozen=True)
class SimulatedMachine:
    """Attributes are shares (0.02 is 2 %), unless their names say otherwise.

    Attributes:
        process: standard deviation of what processes of one row differ by; the ratio of two rows
            then varies by 2 % from wave to wave.
        outliers: processes that are slower by another 10 .. 30 %.
        second_mode: processes that are 6 % slower.
        drift: how much slower the machine is at the end than at the beginning.
        spells: time in slow spells; ``spell_s`` long on average, ``spell_slower`` in them.
        own_spells: as `spells`, but each row has its own.
        noise, correlation: of single inferences, and each with the one before.
    """

    process: float = 0.014
    outliers: float = 0.0
    second_mode: float = 0.0
    drift: float = 0.0
    spells: float = 0.0
    spell_s: float = 1.0
    spell_slower: float = 0.3
    own_spells: float = 0.0
    noise: float = 0.03
    correlation: float = 0.3


#: The situations of the documentation.
SITUATIONS = {
    "quiet": SimulatedMachine(),
    "shared": SimulatedMachine(spells=0.15, drift=0.03),
    "busy": SimulatedMachine(spells=0.35, spell_s=2.0, spell_slower=0.5, drift=0.05, noise=0.05),
    "disturbed processes": SimulatedMachine(outliers=0.05),
    "two modes": SimulatedMachine(second_mode=0.2),
    "drift": SimulatedMachine(drift=0.25),
    "autocorrelated": SimulatedMachine(correlation=0.95),
    "spells of single rows": SimulatedMachine(own_spells=0.15, spells=0.1),
}


@dataclass(frozen=True)
class Plan:
    """A sweep by turns: true latencies in ms, and how often each row runs."""

    latencies_ms: tuple[float, ...] = (10.0, 10.2, 11.0, 15.0, 20.0)
    waves: int = 6
    cycles: int = SamplingSpec().turns
    runs: int = 8


def simulate(machine: SimulatedMachine, plan: Plan, random: np.random.Generator) -> np.ndarray:
    """Durations in ms: wave, row, cycle, inference of the turn."""
    rows = len(plan.latencies_ms)
    shape = (plan.waves, rows, plan.cycles, plan.runs)
    base = np.log(np.asarray(plan.latencies_ms))[None, :, None, None]
    begins_s, total_s = _schedule(plan, random)
    logs = base + _process_effects(machine, (plan.waves, rows), random)[:, :, None, None]
    logs = logs + np.log1p(machine.drift) * begins_s / total_s
    ticks = (begins_s / _TICK_S).astype(int)
    length = int(total_s / _TICK_S) + 2
    slower = np.log1p(machine.spell_slower)
    logs = logs + slower * _in_spell(machine.spells, machine.spell_s, length, random)[ticks]
    for row in range(rows if machine.own_spells else 0):
        spells = _in_spell(machine.own_spells, machine.spell_s, length, random)
        logs[:, row] += slower * spells[ticks[:, row]]
    durations: np.ndarray = np.exp(logs + _autocorrelated(machine, shape, random))
    return durations


def _schedule(plan: Plan, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """When every inference begins, in seconds, as if nothing disturbed it; and when all ends."""
    rows = len(plan.latencies_ms)
    one_s = np.asarray(plan.latencies_ms) / 1e3
    begins = np.empty((plan.waves, rows, plan.cycles, plan.runs))
    now = 0.0
    for wave in range(plan.waves):
        now += _START_S * rows
        for cycle in range(plan.cycles):
            for row in random.permutation(rows):
                begins[wave, row, cycle] = now + one_s[row] * np.arange(plan.runs)
                now += one_s[row] * plan.runs
    return begins, now


def _process_effects(
    machine: SimulatedMachine, shape: tuple[int, ...], random: np.random.Generator
) -> np.ndarray:
    effects = random.normal(0.0, machine.process, shape)
    off = random.random(shape) < machine.outliers
    effects += np.where(off, np.log1p(random.uniform(0.1, 0.3, shape)), 0.0)
    return effects + np.where(random.random(shape) < machine.second_mode, np.log(1.06), 0.0)


def _in_spell(share: float, length_s: float, ticks: int, random: np.random.Generator) -> np.ndarray:
    """1 in a slow spell and 0 elsewhere, tick by tick; times between them are exponential."""
    state = np.zeros(ticks)
    if not share:
        return state
    now = random.exponential(length_s * (1 - share) / share) if random.random() > share else 0.0
    while now < ticks * _TICK_S:
        end = now + random.exponential(length_s)
        state[int(now / _TICK_S) : int(end / _TICK_S)] = 1.0
        now = end + random.exponential(length_s * (1 - share) / share)
    return state


def _autocorrelated(
    machine: SimulatedMachine, shape: tuple[int, ...], random: np.random.Generator
) -> np.ndarray:
    """AR(1) along the inferences of a process, skewed as latencies are: seldom much faster."""
    flat = random.normal(0.0, 1.0, (*shape[:2], shape[2] * shape[3]))
    rho = machine.correlation
    for i in range(1, flat.shape[-1]):
        flat[..., i] = rho * flat[..., i - 1] + np.sqrt(1 - rho**2) * flat[..., i]
    return machine.noise * flat.reshape(shape)
