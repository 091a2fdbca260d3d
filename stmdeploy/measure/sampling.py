"""The one sampling loop: warm-up until steady, then samples until a rule says stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stmdeploy.measure.clock import Clock
from stmdeploy.measure.statistics import process_interval, quantile
from stmdeploy.spec.run import SamplingSpec
from stmdeploy.spec.units import NS_PER_S

#: A rule is checked again once there are this many times as many samples: each check sorts them.
_LOOK_GROWTH = 1.2
#: Warm-up ends when runs no longer become faster by this share.
_STEADY_GAIN = 0.02
#: A process may stop once its own interval is this share of the width that the row aims at: the
#: rest is left for differences between processes.
_OWN_SHARE = 0.5


@dataclass(frozen=True)
class WarmUp:
    """Discarded runs, in nanoseconds, and what ended the warm-up: ``steady`` or ``limit``."""

    durations_ns: tuple[int, ...]
    ended_by: str


@dataclass(frozen=True)
class Samples:
    """Durations of single runs, in nanoseconds, in the order they were taken.

    ``stopped_by``: ``interval`` (narrow enough), ``budget`` (time is up) or ``loadgen``.
    """

    durations_ns: tuple[int, ...]
    stopped_by: str


def timed(run: Callable[[], object], clock: Clock) -> int:
    """How long one run takes, in nanoseconds."""
    start = clock.now_ns()
    run()
    return clock.now_ns() - start


def is_steady(durations: list[int]) -> bool:
    """Whether the median of the latest quarter of the runs is no more than 2 % below that of the
    quarter before it; False for fewer than three runs."""
    quarter = max(len(durations) // 4, 1)
    if len(durations) < 2 * quarter + 1:
        return False
    late, early = sorted(durations[-quarter:]), sorted(durations[-2 * quarter : -quarter])
    return quantile(late, 0.5) >= (1.0 - _STEADY_GAIN) * quantile(early, 0.5)


def warm_up(run: Callable[[], None], clock: Clock, spec: SamplingSpec) -> WarmUp:
    """Runs until `is_steady`, at least ``warmup_min`` times and for ``warmup_s`` seconds, but not
    beyond ``warmup_limit_s`` seconds once it has run ``warmup_min`` times."""
    durations: list[int] = []
    start, next_look = clock.now_ns(), spec.warmup_min
    while True:
        durations.append(timed(run, clock))
        spent_s = (clock.now_ns() - start) / NS_PER_S
        if len(durations) >= next_look and spent_s >= spec.warmup_s:
            if is_steady(durations):
                return WarmUp(tuple(durations), "steady")
            next_look = int(len(durations) * _LOOK_GROWTH) + 1
        if spent_s >= spec.warmup_limit_s and len(durations) >= spec.warmup_min:
            return WarmUp(tuple(durations), "limit")


def collect(run: Callable[[], None], clock: Clock, spec: SamplingSpec) -> Samples:
    """Times single runs until this process's interval is narrow or its share of the budget spent.

    Args:
        run: one inference, complete on return.
        clock: read before and after every run.
        spec: the stopping rules; at least ``min_samples`` are taken whatever the budget.
    """
    durations: list[int] = []
    next_look = spec.interval_min_samples
    start = clock.now_ns()
    while True:
        durations.append(timed(run, clock))
        if len(durations) >= next_look:
            interval = process_interval(durations)
            if interval.half_width_percent <= _OWN_SHARE * spec.target_half_width_percent:
                return Samples(tuple(durations), "interval")
            next_look = int(len(durations) * _LOOK_GROWTH) + 1
        over = clock.now_ns() - start >= spec.process_budget_s * NS_PER_S
        if over and len(durations) >= spec.min_samples:
            return Samples(tuple(durations), "budget")


def collect_in_flight(
    runs: Sequence[Callable[[], None]], clock: Clock, spec: SamplingSpec
) -> tuple[int, ...]:
    """Keeps several requests over one loaded model in flight, a thread each, until the process's
    share of the budget is spent and each has run ``min_samples`` times.

    Args:
        runs: one inference each, complete on return.

    Returns:
        Nanoseconds of every inference, in the order they ended.

    Raises:
        Exception: whatever the first request that failed raised.
    """
    deadline = clock.now_ns() + int(spec.process_budget_s * NS_PER_S)
    finished: list[tuple[int, int]] = []
    failures: list[BaseException] = []

    def work(run: Callable[[], None]) -> None:
        count = 0
        try:
            while not failures and (clock.now_ns() < deadline or count < spec.min_samples):
                duration = timed(run, clock)
                finished.append((clock.now_ns(), duration))
                count += 1
        except BaseException as error:  # noqa: BLE001  (raised again by the thread that waits)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(run,), daemon=True) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    finished.sort()
    return tuple(duration for _, duration in finished)
