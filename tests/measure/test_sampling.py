"""The loop's rules, exactly, on a clock that only runs when told to."""

from __future__ import annotations

import random

import pytest

from stmdeploy.measure.sampling import collect, collect_in_flight, is_steady, warm_up
from stmdeploy.spec.run import SamplingSpec
from tests.fakes import FakeClock, FakeRunner

SPEC = SamplingSpec(
    budget_s=3.0,
    processes=3,
    warmup_s=0.1,
    warmup_min=5,
    warmup_limit_s=1.0,
    min_samples=20,
    interval_min_samples=64,
    target_half_width_percent=1.0,
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


def test_a_steady_runner_stops_as_soon_as_the_interval_may_be_judged() -> None:
    clock = FakeClock()
    taken = collect(FakeRunner(clock, [2.0]).run, clock, SPEC)
    assert len(taken.durations_ns) == 64
    assert taken.stopped_by == "interval"


def test_a_noisy_runner_uses_its_share_of_the_budget() -> None:
    clock, noise = FakeClock(), random.Random(0)
    runner = FakeRunner(clock, [noise.uniform(1.0, 9.0) for _ in range(2000)])
    taken = collect(runner.run, clock, SPEC)
    assert taken.stopped_by == "budget"
    assert 1e9 <= sum(taken.durations_ns) < 1e9 + 9e6


def test_a_drifting_runner_is_not_taken_for_a_steady_one() -> None:
    """Every sample is within 0.1 % of its neighbours; the machine slows down all the same."""
    clock = FakeClock()
    drifting = FakeRunner(clock, [1.0 * 1.0005**i for i in range(5000)])
    assert collect(drifting.run, clock, SPEC).stopped_by == "budget"


def test_a_slow_runner_still_gives_the_fewest_samples() -> None:
    clock = FakeClock()
    taken = collect(FakeRunner(clock, [500.0]).run, clock, SPEC)
    assert len(taken.durations_ns) == 20
    assert taken.stopped_by == "budget"


def test_the_clock_is_read_around_single_runs_only() -> None:
    clock = FakeClock()
    times = [float(i % 7 + 1) for i in range(500)]
    runner = FakeRunner(clock, times)
    warm = warm_up(runner.run, clock, SPEC)
    taken = collect(runner.run, clock, SPEC)
    seen = [ns / 1e6 for ns in (*warm.durations_ns, *taken.durations_ns)]
    assert seen == times[: len(seen)]


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
