"""Which inferences count in a comparison."""

from __future__ import annotations

import hashlib
import os
import threading
import time

import pytest

from stmdeploy.measure.calm import OthersUse, Taken, comparable, compared, run_delay


def disturbed(*slowed: int, others_ms: float | None = None) -> Taken:
    """Four turns of three inferences of 10 ms, those named slowed to 25 ms, in which the threads
    waited for 8 ms; others worked for as long, or for so long."""
    durations = [25.0 if i in slowed else 10.0 for i in range(12)]
    waited = [8.0 if i in slowed else 0.1 for i in range(12)]
    others = 8.0 * len(slowed) if others_ms is None else others_ms
    turns, waits = ([one[i : i + 3] for i in (0, 3, 6, 9)] for one in (durations, waited))
    return Taken(turns, waits, others)


def test_what_waited_is_left_out() -> None:
    assert disturbed(0, 3, 4, 5).calm == [[10.0] * 2, [], [10.0] * 3, [10.0] * 3]
    assert disturbed().calm == [[10.0] * 3] * 4


def test_where_little_is_calm_the_calmest_count() -> None:
    durations = [[25.0, 20.0, 25.0], [25.0, 15.0, 10.0]]
    waited = [[9.0, 5.0, 9.0], [9.0, 3.0, 0.0]]
    assert Taken(durations, waited, 35.0).calm == [[20.0], [15.0, 10.0]]
    assert Taken([[20.0]], [[9.0]], 9.0).calm == [[20.0]]


def test_who_waits_for_itself_hides_nothing() -> None:
    """Others have done next to nothing, so it was its own threads that it waited for."""
    itself = disturbed(0, 3, 4, 5, others_ms=1.0)
    honest = disturbed(6, 7)
    assert itself.waits_for_itself and not honest.waits_for_itself
    assert comparable(itself, honest) == (itself.durations, honest.durations)
    assert comparable(honest, honest) == (honest.calm, honest.calm)


def test_turns_of_who_waits_for_itself_count_by_their_mean() -> None:
    itself, honest = disturbed(0, 3, 4, 5, others_ms=1.0), disturbed(6, 7)
    assert compared(itself, honest) == (
        [[15.0], [25.0], [10.0], [10.0]],
        [[10.0], [10.0], [20.0], [10.0]],
    )
    assert compared(honest, honest) == (honest.calm, honest.calm)


def test_where_nothing_is_known_everything_counts() -> None:
    taken = Taken([[10.0, 25.0]])
    assert taken.calm == taken.durations and not taken.waits_for_itself


def test_a_thread_too_many_makes_the_others_wait() -> None:
    """One more that hashes than there are processors."""

    def work(until: float) -> None:
        while time.monotonic() < until:
            hashlib.sha256(bytes(2**20)).digest()  # without the interpreter's lock

    until = time.monotonic() + 0.5
    count = len(os.sched_getaffinity(0)) + 1
    threads = [threading.Thread(target=work, args=(until,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    with run_delay() as waited_ns:
        before = waited_ns()
        time.sleep(0.2)
        assert waited_ns() - before > 0.02e9
    for thread in threads:
        thread.join()


def test_what_others_use_is_what_all_use_less_ones_own() -> None:
    """Over two turns of a second: two processors busy in one, of which it had three quarters of
    one; in the other it alone."""
    busy, own, now = iter((10.0, 12.0, 20.0, 21.0)), iter((1.0, 1.75, 2.0, 3.0)), iter(range(4))
    use = OthersUse(lambda: next(busy), lambda: next(own), lambda: float(next(now)))
    assert use.processors == 0.0
    assert use.watched(lambda: (1,)) == (1,)
    assert use.processors == pytest.approx(1.25)
    use.watched(lambda: (1,))
    assert use.processors == pytest.approx(0.625)
