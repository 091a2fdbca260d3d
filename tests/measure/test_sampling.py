"""The loop's rules, exactly, on a clock that only runs when told to."""

from __future__ import annotations

import random

from stmdeploy.measure.sampling import collect
from stmdeploy.spec import SamplingSpec
from tests.fakes import FakeClock, FakeRunner

SPEC = SamplingSpec(
    budget_s=1.0,
    warmup_s=0.1,
    warmup_min=5,
    min_samples=20,
    interval_min_samples=64,
    target_half_width_percent=1.0,
)


def test_warm_up_lasts_its_time() -> None:
    clock = FakeClock()
    taken = collect(FakeRunner(clock, [10.0]).run, clock, SPEC)
    assert taken.warmup_ns == (10_000_000,) * 10


def test_warm_up_lasts_its_count() -> None:
    clock = FakeClock()
    taken = collect(FakeRunner(clock, [900.0, 90.0, 80.0, 50.0, 40.0, 1.0]).run, clock, SPEC)
    assert [ns / 1e6 for ns in taken.warmup_ns] == [900.0, 90.0, 80.0, 50.0, 40.0]
    assert set(taken.samples_ns) == {1_000_000}


def test_a_steady_runner_stops_as_soon_as_the_interval_may_be_judged() -> None:
    clock = FakeClock()
    taken = collect(FakeRunner(clock, [2.0]).run, clock, SPEC)
    assert len(taken.samples_ns) == 64
    assert taken.stopped_by == "interval"


def test_a_noisy_runner_uses_its_budget() -> None:
    clock, noise = FakeClock(), random.Random(0)
    runner = FakeRunner(clock, [noise.uniform(1.0, 9.0) for _ in range(2000)])
    taken = collect(runner.run, clock, SPEC)
    assert taken.stopped_by == "budget"
    assert 1e9 <= sum(taken.samples_ns) < 1e9 + 9e6


def test_a_slow_runner_still_gives_the_fewest_samples() -> None:
    clock = FakeClock()
    taken = collect(FakeRunner(clock, [500.0]).run, clock, SPEC)
    assert len(taken.samples_ns) == 20
    assert taken.stopped_by == "budget"


def test_the_clock_is_read_around_single_runs_only() -> None:
    clock = FakeClock()
    times = [float(i % 7 + 1) for i in range(500)]
    taken = collect(FakeRunner(clock, times).run, clock, SPEC)
    seen = [ns / 1e6 for ns in (*taken.warmup_ns, *taken.samples_ns)]
    assert seen == times[: len(seen)]
