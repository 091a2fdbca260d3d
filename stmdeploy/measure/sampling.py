"""The one sampling loop: warm-up until steady, then samples until a rule says stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stmdeploy.measure.calm import is_calm
from stmdeploy.measure.clock import Clock
from stmdeploy.measure.statistics import quantile
from stmdeploy.spec.run import SamplingSpec
from stmdeploy.spec.units import NS_PER_S

#: A rule is checked again once there are this many times as many samples: each check sorts them.
_LOOK_GROWTH = 1.2
#: Warm-up ends when runs no longer become faster by this share.
_STEADY_GAIN = 0.02
#: A turn that finds no calm run takes at most so many times as long.
LONGEST_TURN = 5
#: Fewest runs of a burst.
_BURST_MIN = 3


@dataclass(frozen=True)
class WarmUp:
    """Discarded runs, in nanoseconds, and what ended the warm-up: ``steady`` or ``limit``."""

    durations_ns: tuple[int, ...]
    ended_by: str


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


@dataclass(frozen=True)
class Turn:
    """The runs of one turn that count, in order: how long each took, and how long the process's
    threads waited for a processor meanwhile, all together. In nanoseconds."""

    durations_ns: tuple[int, ...]
    waited_ns: tuple[int, ...]


def take_turn(
    run: Callable[[], None],
    clock: Clock,
    turn_s: float,
    waited_ns: Callable[[], int] = lambda: 0,
    flush_cache: Callable[[], None] | None = None,
) -> Turn:
    """Times single runs for one turn of so many seconds, at least one run.

    The first run finds the caches that others have emptied. It does not count, unless it alone
    takes the whole turn: then the caches hardly matter. A turn without any calm run goes on until
    it has one, but not for long.

    Args:
        run: one inference, complete on return.
        clock: read before and after every run.
        waited_ns: for how long the process's threads have waited for a processor so far.
        flush_cache: called before every run, outside of its time; None for warm caches.
    """

    def one() -> tuple[int, int]:
        """How long it waited, and how long it took."""
        if flush_cache is not None:
            flush_cache()
        before = waited_ns()
        duration = timed(run, clock)
        return waited_ns() - before, duration

    end_ns = clock.now_ns() + turn_s * NS_PER_S
    taken = [one()]
    if clock.now_ns() < end_ns:
        taken[0] = one()
    while clock.now_ns() < end_ns:
        taken.append(one())
    latest_ns = end_ns + (LONGEST_TURN - 1) * turn_s * NS_PER_S
    while not any(is_calm(*run) for run in taken) and clock.now_ns() < latest_ns:
        taken.append(one())
    waited, durations = zip(*taken, strict=True)
    return Turn(durations, waited)


def burst(
    run: Callable[[], None],
    clock: Clock,
    run_ns: float,
    burst_s: float,
    wait: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Runs back to back for about so many seconds, with no clock in between.

    Args:
        run: one inference, complete on return, or enqueued.
        run_ns: how many nanoseconds one run takes, about.
        wait: waits for all that were enqueued.

    Returns:
        How many runs, and how many nanoseconds all of them took.
    """
    runs = max(_BURST_MIN, round(burst_s * NS_PER_S / run_ns))

    def all_of_them() -> None:
        for _ in range(runs):
            run()
        wait()

    return runs, timed(all_of_them, clock)


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
