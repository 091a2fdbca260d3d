"""The figures of a row from its processes, and advice on how they were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev

from stmdeploy.measure.sampling import LONGEST_TURN
from stmdeploy.measure.statistics import (
    FEWEST_FOR_ORDER,
    PERCENTILES,
    percentile_floor,
    quantile,
    row_interval,
    student_t,
)
from stmdeploy.schema.measurement import Measurement, ProcessRun
from stmdeploy.spec.run import LOOP, RunSpec, SamplingSpec
from stmdeploy.spec.units import MS_PER_S

#: A process is off if it is further from the median process than so many times the median distance,
#: and than this share.
_SPREAD_FACTOR, _SPREAD_SHARE = 6.0, 0.05
#: Inferences that became faster by this share while they were sampled were not warm.
_STILL_FASTER = 0.01
#: A machine is busy if more than this many processes per thread can run; the sweep itself is one.
_BUSY_FACTOR = 1.5
#: An inference that takes the host this share of its time on the device is bound by the host.
_HOST_SHARE = 0.9
#: Seconds of a process beside warm-up and sampling: start, load, inferences with copies.
PROCESS_OVERHEAD_S = 3.0


def summarize(processes: Sequence[ProcessRun], run: RunSpec) -> Measurement:
    """Computes a row's figures from those of its processes, at least one, all equally weighted."""
    samples = [process.samples_ms for process in processes]
    latency = row_interval([median(series) for series in samples])
    last = processes[-1]
    advice = _advice(processes)
    energy, source = _energy(processes, run.batch)
    copies = [median(process.copies_ms) for process in processes if process.copies_ms]
    on_device = [median(process.device_ms) for process in processes if process.device_ms]
    enqueue = [median(process.enqueue_ms) for process in processes if process.enqueue_ms]
    return Measurement(
        latency_ms_p50=latency.median,
        latency_ms_p50_low=latency.low,
        latency_ms_p50_high=latency.high,
        latency_ms_mean=fmean(map(fmean, samples)),
        latency_ms_min=min(map(min, samples)),
        **_tails(samples),
        latency_with_copies_ms_p50=median(copies) if copies and run.in_flight == 1 else None,
        latency_on_device_ms_p50=median(on_device) if on_device else None,
        enqueue_ms_p50=median(enqueue) if enqueue else None,
        bound_by_host=bool(
            enqueue and on_device and median(enqueue) >= _HOST_SHARE * median(on_device)
        ),
        throttled_turns=sum(process.throttled_turns for process in processes),
        **_throughput(processes, run.batch),
        runtime_import_ms=median(process.runtime_import_ms for process in processes),
        load_ms=median(process.load_ms for process in processes),
        first_inference_ms=median(process.first_inference_ms for process in processes),
        memory_before_load_mib=max(process.memory_before_load_mib for process in processes),
        memory_peak_mib=max(process.memory_peak_mib for process in processes),
        device_memory_peak_mib=max(
            (p.device_memory_peak_mib for p in processes if p.device_memory_peak_mib is not None),
            default=None,
        ),
        energy_j_per_image=energy,
        energy_source=source,
        processes=len(processes),
        samples=sum(map(len, samples)),
        warmup_runs=sum(len(process.warmup_ms) for process in processes),
        stopped_by=last.stopped_by,
        steady=not advice,
        advice=advice,
        runtime_facts=last.runtime_facts,
        load_average_1min=last.load_average_1min,
        before=processes[0].before,
        after=last.after,
        scenario=last.scenario,
    )


def wants_more(processes: Sequence[ProcessRun], run: RunSpec, sampling: SamplingSpec) -> bool:
    """Whether a row needs one more process."""
    return len(processes) < processes_of(run, sampling)


def processes_of(run: RunSpec, sampling: SamplingSpec) -> int:
    """How many processes measure a row: as many as asked for. LoadGen's scenarios set their own
    length and take one."""
    return sampling.processes if run.scenario.name == LOOP else 1


def longest_row_s(sampling: SamplingSpec) -> float:
    """How many seconds the processes of a row take at most, unless inferences are so slow that the
    fewest samples allowed take longer than their share of the budget."""
    turns_s = LONGEST_TURN * sampling.process_budget_s
    process_s = turns_s + sampling.warmup_limit_s + PROCESS_OVERHEAD_S
    return sampling.processes * process_s


def _tails(samples: Sequence[Sequence[float]]) -> dict[str, float]:
    """Fields of the percentiles that there are enough samples for: in all, and in each process so
    many that one may lie beyond."""
    found: dict[str, float] = {}
    ordered = [sorted(series) for series in samples]
    for share in PERCENTILES:
        enough = sum(map(len, ordered)) >= percentile_floor(share)
        if enough and min(map(len, ordered)) >= round(1 / (1 - share)):
            interval = row_interval([quantile(series, share) for series in ordered])
            name = f"latency_ms_p{round(100 * share)}"
            found[name] = interval.median
            found[f"{name}_low"], found[f"{name}_high"] = interval.low, interval.high
    return found


def _throughput(processes: Sequence[ProcessRun], batch: int) -> dict[str, float]:
    """Fields of images per second."""
    scenario = processes[-1].scenario
    if scenario is not None:
        return {"throughput_images_s": scenario.throughput_images_s}
    found = row_interval([batch * _runs_s(process) for process in processes])
    return {
        "throughput_images_s": found.median,
        "throughput_images_s_low": found.low,
        "throughput_images_s_high": found.high,
    }


def _runs_s(process: ProcessRun) -> float:
    """Inferences per second, of the burst; older stores have none, so then of the samples."""
    if process.burst_runs:
        return process.burst_runs / process.burst_s
    return MS_PER_S / fmean(process.samples_ms)


def _energy(processes: Sequence[ProcessRun], batch: int) -> tuple[float | None, str]:
    """Joules per image, and by which meter; None for LoadGen, if a process read none, or if
    processes read different ones."""
    spent = [process.energy_j for process in processes if process.energy_j is not None]
    meters = {process.energy_source for process in processes}
    if len(spent) < len(processes) or len(meters) > 1 or processes[-1].scenario is not None:
        return None, ""
    runs = (process.burst_runs or len(process.samples_ms) for process in processes)
    images = batch * sum(runs)
    return sum(spent) / images, processes[-1].energy_source


def _advice(processes: Sequence[ProcessRun]) -> tuple[str, ...]:
    """What disturbed a row, each with a remedy; empty if nothing did. How exact a row is known is
    no fault: its interval says that."""
    found = []
    if any(process.warmup_ended_by == "limit" for process in processes) or _still_faster(processes):
        found.append("inferences still got faster when warm-up ended: raise --warmup-limit-s")
    if _processes_differ(processes):
        found.append("processes differ from each other: pin them (taskset), close other programs")
    load, threads = processes[0].load_average_1min, processes[-1].environment.threads_available
    if load is not None and load > _BUSY_FACTOR * threads:
        found.append(f"the machine was busy (load {load:.1f}): close other programs")
    held_back = sum(process.throttled_turns for process in processes)
    if held_back:
        turns = sum(len(process.turns) for process in processes)
        found.append(
            f"the GPU was held back in {held_back} of {turns} turns, which are left out unless all "
            "were: cool it, or lower its clock with --lock-clocks"
        )
    elif any(p.after.gpu_throttle_reasons for p in processes) or _throttled(processes):
        found.append("clocks were throttled: cool the machine, or lock its clocks")
    if any((p.before.gpu_processes or 0) > p.alive for p in processes):
        found.append("other processes use the GPU: end them, or wait for them")
    return tuple(found)


def _still_faster(processes: Sequence[ProcessRun]) -> bool:
    """Whether processes agree that their last turns were faster than their first ones, which a
    warm-up that ended too early shows even if each gain was small."""
    gains = [gain for process in processes if (gain := _gain(process)) is not None]
    if len(gains) < FEWEST_FOR_ORDER:
        return False
    error = stdev(gains) / math.sqrt(len(gains))
    return fmean(gains) - student_t(len(gains) - 1) * error > _STILL_FASTER


def _gain(process: ProcessRun) -> float | None:
    """The logarithm of how much slower the first quarter of a process's turns was than the last."""
    quarter = len(process.turns) // 4
    first, last = sum(process.turns[:quarter]), sum(process.turns[-quarter:]) if quarter else 0
    if not (first and last):
        return None
    return math.log(median(process.samples_ms[:first]) / median(process.samples_ms[-last:]))


def _processes_differ(processes: Sequence[ProcessRun]) -> bool:
    """Whether one process is off by more than others can explain: by its distance from the median,
    in units of the median distance, and by a share that matters."""
    logs = [math.log(median(process.samples_ms)) for process in processes]
    if len(logs) < 3:
        return False
    distances = [abs(log - median(logs)) for log in logs]
    return max(distances) > max(_SPREAD_SHARE, _SPREAD_FACTOR * median(distances))


def _throttled(processes: Sequence[ProcessRun]) -> bool:
    counts = [(p.before.cpu_throttle_events, p.after.cpu_throttle_events) for p in processes]
    return any(b is not None and a is not None and a > b for b, a in counts)
