"""The loop's rules, exactly, on a clock that only runs when told to."""

from __future__ import annotations

import pytest

from stmdeploy.measure.sampling import (
    burst,
    collect_in_flight,
    is_steady,
    take_turn,
    warm_up,
)
from stmdeploy.spec.run import SamplingSpec
from tests.fakes import FakeClock, FakeRunner

SPEC = SamplingSpec(
    budget_s=3.0,
    processes=3,
    warmup_s=0.1,
    warmup_min=5,
    warmup_limit_s=1.0,
    min_samples=20,
)


def test_a_steady_runner_warms_up_for_its_time() -> None:
    clock = FakeClock()
    warm = warm_up(FakeRunner(clock, [10.0]).run, clock, SPEC)
    assert warm.durations_ns == (10_000_000,) * 10
    assert warm.ended_by == "steady"


def test_warm_up_lasts_its_count() -> None:
    clock = FakeClock()
    warm = warm_up(FakeRunner(clock, [90.0]).run, clock, SPEC)
    assert len(warm.durations_ns) == 5


def test_warm_up_goes_on_while_runs_become_faster() -> None:
    clock = FakeClock()
    times = [100.0 * 0.9**i for i in range(12)] + [28.0] * 100
    warm = warm_up(FakeRunner(clock, times).run, clock, SPEC)
    assert warm.ended_by == "steady"
    # The latest quarter and the one before it must both lie on the plateau, nearly.
    assert 12 < len(warm.durations_ns) < 30


def test_warm_up_ends_at_its_limit() -> None:
    clock = FakeClock()
    warm = warm_up(FakeRunner(clock, [100.0 * 0.97**i for i in range(200)]).run, clock, SPEC)
    assert warm.ended_by == "limit"
    assert 0.99e9 <= sum(warm.durations_ns) < 1.1e9


@pytest.mark.parametrize(
    ("durations", "steady"),
    [
        ([10, 10], False),
        ([10, 10, 10], True),
        ([10, 10, 10, 10, 10, 10, 9, 9], False),
        ([12, 12, 12, 12, 10, 10, 10, 10], True),
        ([10, 10, 10, 10, 100, 101, 99, 99], True),
        ([9, 9, 9, 9, 10, 10, 11, 11], True),
    ],
)
def test_steady_is_not_becoming_faster(durations: list[int], steady: bool) -> None:
    assert is_steady(durations) is steady


def test_a_turn_lasts_its_time_and_its_first_run_does_not_count() -> None:
    clock = FakeClock()
    taken = take_turn(FakeRunner(clock, [9.0, *[2.0] * 99]).run, clock, 0.02).durations_ns
    assert taken == (2_000_000,) * 6, "9 ms cold, and 12 ms until 20 are over"
    assert clock.ns == 21_000_000


def test_a_slow_run_is_a_turn() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, [500.0])
    assert take_turn(runner.run, clock, 0.1).durations_ns == (500_000_000,)
    assert runner.runs == 1


def test_a_turn_has_one_run_that_counts() -> None:
    clock = FakeClock()
    taken = take_turn(FakeRunner(clock, [99.0, 60.0]).run, clock, 0.1)
    assert taken.durations_ns == (60_000_000,)


@pytest.mark.parametrize(("calm_after", "runs"), [(1, 2), (4, 5), (99, 14)])
def test_a_turn_goes_on_until_a_run_is_calm_but_not_for_long(calm_after: int, runs: int) -> None:
    """Runs of 10 ms that wait for half of it, until they no longer do; a turn is of 30 ms."""
    clock = FakeClock()
    runner = FakeRunner(clock, [10.0])
    waited = 0

    def run() -> None:
        nonlocal waited
        runner.run()
        waited += 0 if runner.runs > calm_after + 1 else 5_000_000

    taken = take_turn(run, clock, 0.03, lambda: waited)
    assert len(taken.durations_ns) == len(taken.waited_ns) == runs
    assert taken.waited_ns.count(0) == (calm_after < 99)


def test_a_burst_is_timed_as_one() -> None:
    clock = FakeClock()
    reads = 0

    class Counting(FakeClock):
        def now_ns(self) -> int:
            nonlocal reads
            reads += 1
            return clock.now_ns()

    runs, took_ns = burst(FakeRunner(clock, [2.0, 4.0] * 50).run, Counting(), 3e6, 0.06)
    assert (runs, took_ns, reads) == (20, 60_000_000, 2)
    assert burst(FakeRunner(clock, [500.0]).run, clock, 5e8, 0.06)[0] == 3


def test_the_clock_is_read_around_single_runs_only() -> None:
    clock = FakeClock()
    times = [float(i % 7 + 1) for i in range(500)]
    runner = FakeRunner(clock, times)
    warm = warm_up(runner.run, clock, SPEC)
    taken = take_turn(runner.run, clock, 0.5).durations_ns
    begun = len(warm.durations_ns)
    assert [ns / 1e6 for ns in warm.durations_ns] == times[:begun]
    assert [ns / 1e6 for ns in taken] == times[begun + 1 : begun + 1 + len(taken)]


def test_requests_in_flight_are_all_counted() -> None:
    clock = FakeClock()
    runners = [FakeRunner(clock, [5.0]), FakeRunner(clock, [5.0])]
    durations = collect_in_flight([runner.run for runner in runners], clock, SPEC)
    assert len(durations) == sum(runner.runs for runner in runners)
    assert all(runner.runs >= SPEC.min_samples for runner in runners)
    assert clock.ns >= 1e9


def test_a_request_that_fails_ends_all() -> None:
    clock = FakeClock()

    def broken() -> None:
        raise RuntimeError("no memory left on the device")

    with pytest.raises(RuntimeError, match="no memory"):
        collect_in_flight([FakeRunner(clock, [5.0]).run, broken], clock, SPEC)
