"""Which inferences count in a comparison."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable

import pytest

from stmdeploy.measure.calm import OthersUse, calm_turns, run_delay, waits_for_itself
from stmdeploy.schema.measurement import ProcessRun

MakeProcess = Callable[..., ProcessRun]


@pytest.fixture
def disturbed(make_process: MakeProcess) -> Callable[..., ProcessRun]:
    """A process of four turns of three inferences of 10 ms, those named slowed to 25 ms, in which
    its threads waited for 8 ms; others worked for as long."""

    def build(*slowed: int, others_s: float | None = None, **fields: object) -> ProcessRun:
        return make_process(
            samples_ms=tuple(25.0 if i in slowed else 10.0 for i in range(12)),
            waited_ms=tuple(8.0 if i in slowed else 0.1 for i in range(12)),
            others_s=0.008 * len(slowed) if others_s is None else others_s,
            turns=(3, 3, 3, 3),
            **fields,
        )

    return build


def test_what_waited_is_left_out(disturbed: Callable[..., ProcessRun]) -> None:
    assert calm_turns(disturbed(0, 3, 4, 5)) == [[10.0] * 2, [], [10.0] * 3, [10.0] * 3]
    assert calm_turns(disturbed()) == [[10.0] * 3] * 4


def test_where_little_is_calm_the_calmest_count(disturbed: Callable[..., ProcessRun]) -> None:
    kept = calm_turns(disturbed(*range(11)))
    assert sum(map(len, kept)) == 3 and kept[3][-1] == 10.0


def test_who_waits_for_itself_hides_nothing(disturbed: Callable[..., ProcessRun]) -> None:
    """Others have done next to nothing, so it was its own threads that it waited for."""
    process = disturbed(0, 3, 4, 5, others_s=0.001)
    assert waits_for_itself(process)
    assert [len(turn) for turn in calm_turns(process)] == [3] * 4
    assert not waits_for_itself(disturbed(0, 3, 4, 5))


def test_where_nothing_is_known_everything_counts(disturbed: Callable[..., ProcessRun]) -> None:
    process = disturbed(0, 3).model_copy(update={"waited_ms": ()})
    assert [len(turn) for turn in calm_turns(process)] == [3] * 4


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
