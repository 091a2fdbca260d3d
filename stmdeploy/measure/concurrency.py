"""Several requests in flight: one thread each, over one loaded model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from stmdeploy.measure.clock import Clock
from stmdeploy.measure.sampling import timed
from stmdeploy.spec import SamplingSpec

_NS_PER_S = 1_000_000_000


def collect_in_flight(
    runs: Sequence[Callable[[], None]], clock: Clock, spec: SamplingSpec
) -> tuple[int, ...]:
    """Keeps every request busy until the process's share of the budget is spent.

    Args:
        runs: one inference each, complete on return; called from threads of their own.

    Returns:
        Nanoseconds of every inference, in the order they ended.

    Raises:
        Exception: whatever the first request that failed raised.
    """
    deadline = clock.now_ns() + int(spec.process_budget_s * _NS_PER_S)
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
