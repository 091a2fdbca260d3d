"""One process of a row, with known times."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest

from stmdeploy import StmdeployError
from stmdeploy.errors import ExitCode
from stmdeploy.measure.session import Machine, Model, measure, peak_memory_mib
from stmdeploy.plugins.runner import OnStream
from stmdeploy.schema.hardware import Conditions, Environment
from stmdeploy.schema.measurement import ProcessRun, ScenarioResult
from stmdeploy.spec.run import RunSpec, SamplingSpec, ScenarioSpec
from tests.fakes import TEST_ENVIRONMENT, FakeClock, FakeRunner

IMAGES = np.ones((8, 3, 4, 4), np.float32)
SPEC = SamplingSpec(budget_s=0.5, processes=1, warmup_s=0.001, warmup_min=5)


def no_scenario(_: object) -> ScenarioResult:
    raise AssertionError("not asked for")


def unchecked(_runner: object, _images: object) -> None:
    return None


class FakeTimer:
    """Tells what the clock did, less a millisecond that the host took of it."""

    def __init__(self, stream: int, clock: FakeClock) -> None:
        assert stream == 7
        self._clock = clock

    def time_ms(self, submit: Callable[[], None]) -> float:
        before = self._clock.now_ns()
        submit()
        return (self._clock.now_ns() - before) / 1e6 - 1.0


class OnGpu(FakeRunner):
    """A runner with a stream."""

    def on_stream(self) -> OnStream:
        return OnStream(7, self.run, lambda: None)


def process_of(runner: FakeRunner, clock: FakeClock, run: RunSpec, **changes: object) -> ProcessRun:
    def load() -> FakeRunner:
        clock.advance_ms(250.0)
        return runner

    energy = iter([90.0, 100.0, 130.0])
    turns = iter(range(8))
    machine = Machine(
        clock=clock,
        busy_s=lambda: 0.0,
        run_delay=lambda: nullcontext(lambda: 0),
        conditions=lambda: Conditions(package_energy_j=next(energy)),
        load_average=lambda: 1.5,
        environment=Environment.model_validate(TEST_ENVIRONMENT),
        device_timer=lambda stream: FakeTimer(stream, clock),
        throttled_ns=changes.get("throttled_ns", dict),  # type: ignore[arg-type]
        flush_cache=changes.get("flush_cache"),  # type: ignore[arg-type]
    )
    return measure(
        Model(
            import_runtime=lambda: clock.advance_ms(40.0),
            load=load,
            make_inputs=lambda: (IMAGES,),
            check=changes.get("check", unchecked),  # type: ignore[arg-type]
        ),
        run,
        SPEC,
        machine,
        changes.get("play", no_scenario),  # type: ignore[arg-type]
        lambda: next(turns, None) is not None,
    )


def test_a_gpu_times_its_own_inferences() -> None:
    """Beside the samples, which stay the host's; a processor has none."""
    clock = FakeClock()
    result = process_of(OnGpu(clock, [5.0]), clock, RunSpec("fake", 8, 1))
    assert set(result.samples_ms) == {5.0}
    assert len(result.device_ms) >= 5 and set(result.device_ms) == {4.0}
    assert process_of(FakeRunner(clock, [5.0]), clock, RunSpec("fake", 8, 1)).device_ms == ()


class Enqueued(FakeRunner):
    """A runner whose inferences take 5 ms on the device, and 1 ms of the host to enqueue."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, [5.0])
        self.told: list[str] = []
        self.busy_ms, self.clock = 0.0, clock

    def run(self) -> None:
        self.told.append("run")
        super().run()

    def on_stream(self) -> OnStream:
        return OnStream(7, self._submit, self._wait)

    def _submit(self) -> None:
        self.told.append("submit")
        self.clock.advance_ms(1.0)
        self.busy_ms += 5.0

    def _wait(self) -> None:
        self.told.append("wait")
        self.clock.advance_ms(self.busy_ms)
        self.busy_ms = 0.0


def test_throughput_is_of_inferences_enqueued_ahead() -> None:
    """All of a burst are on the stream before the first wait; and how long enqueuing takes is
    told."""
    clock = FakeClock()
    runner = Enqueued(clock)
    process = process_of(runner, clock, RunSpec("fake", 8, 1))
    first = runner.told.index("submit")
    assert runner.told[first : first + process.burst_runs + 1] == [
        *["submit"] * process.burst_runs, "wait"
    ]  # fmt: skip
    assert process.burst_runs >= 3
    assert set(process.enqueue_ms) == {1.0}
    assert len(process.enqueue_ms) == len(process.device_ms)


def test_the_cache_is_emptied_before_every_timed_inference() -> None:
    clock = FakeClock()
    runner = Enqueued(clock)

    def flush() -> None:
        runner.told.append("flush")
        clock.advance_ms(2.0)

    process = process_of(runner, clock, RunSpec("fake", 8, 1), flush_cache=flush)
    assert set(process.samples_ms) == {5.0}, "emptying it takes none of their time"
    flushed = [runner.told[i + 1] for i, told in enumerate(runner.told) if told == "flush"]
    assert set(flushed) == {"run", "submit"}
    assert flushed.count("run") >= len(process.samples_ms)


def test_turns_of_a_gpu_that_is_held_back_are_left_out() -> None:
    """By the counters before and after each; if all were, they stay, and the row says so."""
    counters = iter([0, 0, 0, 900, 900, 900, *[900] * 10, 900, 901])
    clock = FakeClock()
    process = process_of(
        FakeRunner(clock, [5.0]), clock, RunSpec("fake", 8, 1),
        throttled_ns=lambda: {"sw_power_cap": next(counters, 901)},
    )  # fmt: skip
    assert process.throttled_turns == 1
    assert process.turns.count(0) == 1 and process.turns[1] == 0
    assert sum(process.turns) == len(process.samples_ms) > 0
    rising = iter(range(100))
    clock = FakeClock()
    process = process_of(
        FakeRunner(clock, [5.0]), clock, RunSpec("fake", 8, 1),
        throttled_ns=lambda: {"sw_power_cap": next(rising)},
    )  # fmt: skip
    assert process.throttled_turns == len(process.turns) == 8
    assert 0 not in process.turns


def test_a_process_of_known_times() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, [30.0, *[8.0] * 5, *[4.0, 6.0] * 500])
    result = process_of(runner, clock, RunSpec("fake", 8, 1))
    assert result.runtime_import_ms == 40.0
    assert result.load_ms == 250.0
    assert result.first_inference_ms == 30.0
    assert result.warmup_ms == (8.0,) * 5
    assert result.warmup_ended_by == "steady"
    assert set(result.samples_ms) == {4.0, 6.0}
    assert result.stopped_by == "turns"
    assert len(result.turns) == 8
    assert sum(result.turns) == len(result.samples_ms)
    assert result.burst_s == pytest.approx(result.burst_runs * 0.005, rel=0.1)
    assert len(result.copies_ms) >= 5
    assert result.energy_j == 30.0
    assert result.energy_source == "rapl"
    assert result.load_average_1min == 1.5
    assert runner.prepared is IMAGES
    assert runner.fed == len(result.copies_ms) + 1


def test_outputs_are_checked_before_the_first_sample_and_after_the_last() -> None:
    clock, seen = FakeClock(), list[int]()
    runner = FakeRunner(clock, [5.0])

    def check(checked: object, images: object) -> None:
        assert checked is runner and images == (IMAGES,)
        seen.append(runner.runs)

    result = process_of(runner, clock, RunSpec("fake", 8, 1), check=check)
    first, last = seen
    assert first == 1, "after the first inference"
    assert last >= 1 + len(result.warmup_ms) + len(result.samples_ms)


def test_wrong_outputs_leave_no_figure() -> None:
    def check(_runner: object, _images: object) -> None:
        raise StmdeployError("row 2 of a batch of 8 is wrong", "", ExitCode.OUTPUTS_DIFFER)

    clock = FakeClock()
    runner = FakeRunner(clock, [5.0])
    with pytest.raises(StmdeployError, match="row 2"):
        process_of(runner, clock, RunSpec("fake", 8, 1), check=check)
    assert runner.runs == 1


def test_several_in_flight() -> None:
    clock = FakeClock()
    result = process_of(FakeRunner(clock, [5.0]), clock, RunSpec("fake", 8, 1, in_flight=3))
    assert set(result.samples_ms) >= {5.0}
    assert len(result.samples_ms) >= 3 * SPEC.min_samples
    assert result.burst_s >= 0.5
    assert result.burst_runs == len(result.samples_ms)


def test_a_scenario_is_played_over_every_lane() -> None:
    clock, seen = FakeClock(), []
    said = ScenarioResult(
        scenario="offline", valid=True, reasons=(), queries=1, latency_ms_p50=1.0,
        latency_ms_p90=1.0, latency_ms_p99=1.0, throughput_images_s=9.0, target_queries_s=None,
        target_latency_ms=None, logs="", loadgen_version="6",
    )  # fmt: skip

    def play(lanes: list[object]) -> ScenarioResult:
        seen.extend(lanes)
        return said

    run = RunSpec("fake", 8, 1, in_flight=2, scenario=ScenarioSpec("offline"))
    result = process_of(FakeRunner(clock, [5.0]), clock, run, play=play)
    assert result.scenario == said
    assert len(seen) == 2
    assert len(result.samples_ms) == SPEC.min_samples


def test_peak_memory_follows_an_allocation() -> None:
    before = peak_memory_mib()
    block = np.ones(64 * 2**20 // 8)
    assert block.sum() > 0
    assert peak_memory_mib() >= before
    assert peak_memory_mib() > 64
