"""The one sampling loop: warm-up, then samples until a rule says stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stmdeploy.measure.clock import Clock
from stmdeploy.measure.statistics import median_interval
from stmdeploy.spec import SamplingSpec

#: The interval is looked at again after this much more data; looking costs a sort.
_LOOK_GROWTH = 1.2
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class Samples:
    """Durations of single runs, in nanoseconds, in the order they were taken.

    ``stopped_by`` is ``interval`` (narrow enough) or ``budget`` (time over).
    """

    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]
    stopped_by: str


def _timed(run: Callable[[], None], clock: Clock) -> int:
    start = clock.now_ns()
    run()
    return clock.now_ns() - start


def _warm_up(run: Callable[[], None], clock: Clock, spec: SamplingSpec) -> tuple[int, ...]:
    durations: list[int] = []
    start = clock.now_ns()
    while len(durations) < spec.warmup_min or clock.now_ns() - start < spec.warmup_s * _NS_PER_S:
        durations.append(_timed(run, clock))
    return tuple(durations)


def collect(run: Callable[[], None], clock: Clock, spec: SamplingSpec) -> Samples:
    """Warms up, then times single runs until the interval is narrow or the budget is spent.

    Args:
        run: one inference, complete on return.
        clock: read before and after every run.
        spec: the stopping rules; at least ``min_samples`` are taken whatever the budget.
    """
    warmup = _warm_up(run, clock, spec)
    durations: list[int] = []
    next_look = spec.interval_min_samples
    start = clock.now_ns()
    while True:
        durations.append(_timed(run, clock))
        if len(durations) >= next_look:
            interval = median_interval(durations)
            if interval.half_width_percent <= spec.target_half_width_percent:
                return Samples(warmup, tuple(durations), "interval")
            next_look = int(len(durations) * _LOOK_GROWTH) + 1
        over = clock.now_ns() - start >= spec.budget_s * _NS_PER_S
        if over and len(durations) >= spec.min_samples:
            return Samples(warmup, tuple(durations), "budget")
