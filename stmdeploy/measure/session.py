"""Measures one loaded model in this process: load, first inference, warm-up, samples, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import median
from typing import Protocol, TypeVar

from stmdeploy.errors import StmdeployError
from stmdeploy.hardware.conditions import energy_j
from stmdeploy.hardware.machine import proc_field
from stmdeploy.measure.calm import OthersUse
from stmdeploy.measure.clock import Clock
from stmdeploy.measure.sampling import (
    Turn,
    burst,
    collect_in_flight,
    take_turn,
    timed,
    warm_up,
)
from stmdeploy.plugins.runner import Inputs, Runner
from stmdeploy.schema.hardware import Conditions, Environment
from stmdeploy.schema.measurement import ProcessRun, ScenarioResult
from stmdeploy.spec.run import LOOP, RunSpec, SamplingSpec
from stmdeploy.spec.units import NS_PER_MS, NS_PER_S

#: Inferences with host copies get this share of a process's budget, and at least so many runs; so
#: do those timed by the device.
_BESIDE_SHARE, _BESIDE_MIN = 0.1, 3
#: Inferences without a clock in between get this share.
_BURST_SHARE = 0.2
#: What stands for a turn that is left out, so that those of a cycle stay at the same place.
_NO_TURN = Turn((), ())

T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """What the measuring process reads of the machine around it, as `calm.OthersUse` and
    `calm.run_delay` say for two of them; ``throttled_ns`` as `hardware.nvml.throttled_ns`, and
    ``flush_cache`` empties the device's cache before every timed inference, if it is to be cold."""

    clock: Clock
    busy_s: Callable[[], float]
    run_delay: Callable[[], AbstractContextManager[Callable[[], int]]]
    conditions: Callable[[], Conditions]
    load_average: Callable[[], float | None]
    environment: Environment
    device_timer: Callable[[int], DeviceTimer]
    throttled_ns: Callable[[], dict[str, int]] = dict
    flush_cache: Callable[[], None] | None = None


class DeviceTimer(Protocol):
    """Times work on a CUDA stream; `stmdeploy.hardware.cuda.EventTimer` is the real one."""

    def time_ms(self, submit: Callable[[], None]) -> float:
        """Milliseconds of what `submit` puts on the stream."""


@dataclass(frozen=True)
class Model:
    """How a model comes into the process that measures it.

    Attributes:
        import_runtime: imports what `load` needs, so that load time and memory are the model's.
        load: makes the runner.
        make_inputs: makes the inputs: images N 3 H W float32, or what a file from outside takes;
            called after the import, with which it may share a library.
        check: raises StmdeployError (exit code 4) if a runner's outputs for the inputs that it is
            prepared with are wrong; leaves the runner as it was.
    """

    import_runtime: Callable[[], None]
    load: Callable[[], Runner]
    make_inputs: Callable[[], Inputs]
    check: Callable[[Runner, Inputs], object]


#: Runs one of LoadGen's scenarios over a loaded model.
PlayScenario = Callable[[list[Runner]], ScenarioResult]
#: Waits for the next turn; False when there is none any more.
NextTurn = Callable[[], bool]


def peak_memory_mib() -> float:
    """The most MiB this process has held in memory (its resident set's high-water mark).

    From ``/proc``, because ``getrusage`` starts a child at its parent's peak.
    """
    if peak_kib := proc_field("self/status", "VmHWM"):
        return int(peak_kib.split()[0]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@dataclass(frozen=True)
class Loaded:
    """A model that has run once, and what bringing it there took."""

    runner: Runner
    inputs: Inputs
    runtime_import_ms: float
    load_ms: float
    first_inference_ms: float
    memory_before_load_mib: float


def load_model(model: Model, clock: Clock) -> Loaded:
    """Loads a model and runs it once; raises what the model's check of its outputs raises."""
    import_ns = timed(model.import_runtime, clock)
    inputs = model.make_inputs()
    memory_before = peak_memory_mib()
    start = clock.now_ns()
    runner = model.load()
    load_ns = clock.now_ns() - start
    start = clock.now_ns()
    runner.prepare(*inputs)  # where a graph is replayed, it is recorded here
    runner.run()
    first_ns = clock.now_ns() - start
    model.check(runner, inputs)
    return Loaded(
        runner=runner,
        inputs=inputs,
        runtime_import_ms=import_ns / NS_PER_MS,
        load_ms=load_ns / NS_PER_MS,
        first_inference_ms=first_ns / NS_PER_MS,
        memory_before_load_mib=memory_before,
    )


def measure(
    model: Model,
    run: RunSpec,
    sampling: SamplingSpec,
    machine: Machine,
    play: PlayScenario,
    next_turn: NextTurn,
) -> ProcessRun:
    """Loads a model, warms it up, and measures its inferences over one prepared input.

    Args:
        model: how it is loaded.
        run: how many requests are in flight, and which scenario.
        sampling: how much is measured.
        machine: the clock, and what is recorded beside the samples.
        play: used for every scenario but our own loop.
        next_turn: used for runs that take turns (`RunSpec.by_turns`); the model is loaded and warm
            when it is first called, and nothing runs while it waits.

    Raises:
        StmdeployError: (exit code 4) what the model's check raises, which is called before the
            first sample and after the last.
    """
    clock, beside_s = machine.clock, _BESIDE_SHARE * sampling.process_budget_s
    loaded = load_model(model, clock)
    runner, inputs = loaded.runner, loaded.inputs
    load_now = machine.load_average()
    warm = warm_up(runner.run, clock, sampling)
    lanes = _lanes(runner, inputs, run.in_flight)
    before = machine.conditions()
    sampled = _sample(lanes, run, sampling, machine, play, next_turn)
    energy, source = energy_j(sampled.before, sampled.after)
    on_device = _on_device(runner, machine, beside_s)
    runner.feed(*inputs)  # LoadGen's queries may have left others
    model.check(runner, inputs)
    return ProcessRun(
        samples_ms=_in_ms(sampled.durations_ns),
        copies_ms=_in_ms(_with_copies(runner, inputs, clock, beside_s)),
        warmup_ms=_in_ms(warm.durations_ns),
        device_ms=tuple(ms for ms, _ in on_device),
        enqueue_ms=tuple(ns / NS_PER_MS for _, ns in on_device),
        throttled_turns=sampled.throttled_turns,
        warmup_ended_by=warm.ended_by,
        stopped_by=sampled.stopped_by,
        window_s=sampled.window_ns / NS_PER_S,
        turns=sampled.turns,
        waited_ms=_in_ms(sampled.waited_ns),
        others_s=max(0.0, sampled.others_s),
        turns_s=sampled.turns_s,
        burst_runs=sampled.burst_runs,
        burst_s=sampled.burst_ns / NS_PER_S,
        runtime_import_ms=loaded.runtime_import_ms,
        load_ms=loaded.load_ms,
        first_inference_ms=loaded.first_inference_ms,
        memory_before_load_mib=loaded.memory_before_load_mib,
        memory_peak_mib=peak_memory_mib(),
        device_memory_peak_mib=sampled.after.gpu_process_memory_mib,
        energy_j=energy,
        energy_source=source,
        runtime_facts=runner.facts(),
        load_average_1min=load_now,
        before=before,
        after=sampled.after,
        environment=machine.environment,
        scenario=sampled.scenario,
    )


@dataclass(frozen=True)
class _Sampled:
    """Samples, and inferences whose number and time are known together, with the machine's state
    before and after those."""

    stopped_by: str
    durations_ns: tuple[int, ...]
    window_ns: int
    burst_runs: int
    burst_ns: int
    before: Conditions
    after: Conditions
    turns: tuple[int, ...] = ()
    waited_ns: tuple[int, ...] = ()
    others_s: float = 0.0
    turns_s: float = 0.0
    throttled_turns: int = 0
    scenario: ScenarioResult | None = None


def _lanes(runner: Runner, inputs: Inputs, in_flight: int) -> list[Runner]:
    """The runner, and for every further request one over the same loaded model, warm."""
    further = [runner.another() for _ in range(in_flight - 1)]
    for lane in further:
        lane.prepare(*inputs)
        lane.run()
    return [runner, *further]


def _sample(
    lanes: list[Runner],
    run: RunSpec,
    sampling: SamplingSpec,
    machine: Machine,
    play: PlayScenario,
    next_turn: NextTurn,
) -> _Sampled:
    """Takes the samples of a run: by turns, with several requests in flight, or by LoadGen."""
    clock, first = machine.clock, lanes[0]
    began = clock.now_ns()
    if run.by_turns:
        turns: list[Turn] = []
        throttled: list[bool] = []
        others = OthersUse(machine.busy_s)
        while next_turn():
            held_back = machine.throttled_ns()
            with machine.run_delay() as waited_ns:  # anew for every turn: threads come and go
                turn = partial(
                    take_turn, first.run, clock, sampling.turn_s, waited_ns, machine.flush_cache
                )
                turns.append(others.watched(turn))
            now = machine.throttled_ns()
            throttled.append(any(now[reason] > held_back.get(reason, 0) for reason in now))
        if not turns:
            raise StmdeployError("no turn was given", "run it as a row of stmdeploy profile")
        if any(throttled) and not all(throttled):
            turns = [_NO_TURN if out else turn for out, turn in zip(throttled, turns, strict=True)]
        window_ns = clock.now_ns() - began
        durations = tuple(chain.from_iterable(turn.durations_ns for turn in turns))
        before, burst_s = machine.conditions(), _BURST_SHARE * sampling.process_budget_s
        runs, took_ns = _burst(first, clock, median(durations), burst_s)
        counted = "turns", durations, window_ns, runs, took_ns, before
        return _Sampled(
            *counted,
            machine.conditions(),
            turns=tuple(len(turn.durations_ns) for turn in turns),
            waited_ns=tuple(chain.from_iterable(turn.waited_ns for turn in turns)),
            others_s=others.others_s,
            turns_s=others.watched_s,
            throttled_turns=sum(throttled),
        )
    before, began = machine.conditions(), clock.now_ns()
    if run.scenario.name == LOOP:
        durations = collect_in_flight([lane.run for lane in lanes], clock, sampling)
        took_ns = clock.now_ns() - began
        counted = "budget", durations, took_ns, len(durations), took_ns, before
        return _Sampled(*counted, machine.conditions())
    result = play(lanes)
    took_ns, after = clock.now_ns() - began, machine.conditions()
    # LoadGen keeps its own samples; a few of ours show what one request takes without it.
    own = tuple(timed(first.run, clock) for _ in range(sampling.min_samples))
    return _Sampled("loadgen", own, took_ns, 0, 0, before, after, scenario=result)


def _burst(runner: Runner, clock: Clock, run_ns: float, burst_s: float) -> tuple[int, int]:
    """Inferences back to back; on a GPU's stream each is enqueued while others still run."""
    stream = runner.on_stream()
    if stream is None:
        return burst(runner.run, clock, run_ns, burst_s)
    return burst(stream.submit, clock, run_ns, burst_s, stream.wait)


def _repeated(once: Callable[[], T], clock: Clock, budget_s: float) -> tuple[T, ...]:
    """Calls `once` for so many seconds, at least `_BESIDE_MIN` times; gives all its results."""
    found: list[T] = []
    deadline = clock.now_ns() + budget_s * NS_PER_S
    while len(found) < _BESIDE_MIN or clock.now_ns() < deadline:
        found.append(once())
    return tuple(found)


def _with_copies(runner: Runner, inputs: Inputs, clock: Clock, budget_s: float) -> tuple[int, ...]:
    """Nanoseconds of inferences that copy the input to the runtime and the output back.

    The first one, whose copies are cold, is among them: it hardly moves their median.
    """

    def whole() -> None:
        runner.feed(*inputs)
        runner.run()
        runner.outputs()

    return _repeated(lambda: timed(whole, clock), clock, budget_s)


def _on_device(runner: Runner, machine: Machine, budget_s: float) -> tuple[tuple[float, int], ...]:
    """Of inferences, the milliseconds as the GPU times them, and the nanoseconds that the host took
    to enqueue them; empty if the runner has no stream."""
    stream = runner.on_stream()
    if stream is None:
        return ()
    timer, clock = machine.device_timer(stream.handle), machine.clock

    def once() -> tuple[float, int]:
        if machine.flush_cache is not None:
            machine.flush_cache()
        enqueued: list[int] = []
        device_ms = timer.time_ms(lambda: enqueued.append(timed(stream.submit, clock)))
        return device_ms, enqueued[0]

    return _repeated(once, clock, budget_s)


def _in_ms(durations_ns: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(ns / NS_PER_MS for ns in durations_ns)
