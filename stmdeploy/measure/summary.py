"""The figures of a row from its processes, and advice on how they were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from statistics import fmean, median

from stmdeploy.measure.statistics import percentiles, process_interval, row_interval
from stmdeploy.schema.measurement import Measurement, ProcessRun
from stmdeploy.spec.run import LOOP, RunSpec, SamplingSpec
from stmdeploy.spec.units import MS_PER_S

#: Processes of a row differ if their medians spread by more than this many times what each varies
#: by itself, and by more than this share.
_SPREAD_FACTOR, _SPREAD_SHARE = 3.0, 0.05
#: A machine is busy if more than this many processes per thread can run; the sweep itself is one.
_BUSY_FACTOR = 1.5
#: Seconds of a process beside warm-up and sampling: start, load, inferences with copies.
PROCESS_OVERHEAD_S = 3.0
#: The seconds of these that nobody measures: start and end of the interpreter.
_START_S = 0.5


def summarize(processes: Sequence[ProcessRun], run: RunSpec, sampling: SamplingSpec) -> Measurement:
    """Computes a row's figures from those of its processes, at least one."""
    samples = [process.samples_ms for process in processes]
    pooled = tuple(chain.from_iterable(samples))
    interval, tails = row_interval(samples), percentiles(pooled)
    last = processes[-1]
    advice = _advice(processes, interval.half_width_percent, sampling)
    images = run.batch * len(pooled)
    energy, source = _energy(processes, images)
    copies = [median(process.copies_ms) for process in processes if process.copies_ms]
    on_device = [median(process.device_ms) for process in processes if process.device_ms]
    return Measurement(
        latency_ms_p50=interval.median,
        latency_ms_p50_low=interval.low,
        latency_ms_p50_high=interval.high,
        latency_ms_mean=fmean(pooled),
        latency_ms_min=min(pooled),
        latency_ms_p90=tails.get(0.90),
        latency_ms_p95=tails.get(0.95),
        latency_ms_p99=tails.get(0.99),
        latency_with_copies_ms_p50=median(copies) if copies and run.in_flight == 1 else None,
        latency_on_device_ms_p50=median(on_device) if on_device else None,
        throughput_images_s=_throughput(processes, run, images),
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
        samples=len(pooled),
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
    """Whether a row needs one more process.

    It does until it has as many as asked for; then as long as its interval is wider than the
    target, its budget has samples left, and one more would end within `longest_row_s`. LoadGen's
    scenarios set their own length and take one process.
    """
    if run.scenario.name != LOOP:
        return not processes
    if len(processes) < sampling.processes:
        return True
    spent_s = sum(sum(process.samples_ms) for process in processes) / MS_PER_S / run.in_flight
    if spent_s + sampling.process_budget_s / 2 > sampling.budget_s:
        return False
    took_s = [_took_s(process) for process in processes]
    if sum(took_s) + max(took_s) > longest_row_s(sampling):
        return False
    width = row_interval([process.samples_ms for process in processes]).half_width_percent
    return width > sampling.target_half_width_percent


def longest_row_s(sampling: SamplingSpec) -> float:
    """How many seconds the processes of a row take at most, unless inferences are so slow that the
    fewest samples allowed take longer than their share of the budget."""
    process_s = sampling.process_budget_s + sampling.warmup_limit_s + PROCESS_OVERHEAD_S
    return sampling.processes * process_s


def _took_s(process: ProcessRun) -> float:
    """How many seconds a process lived, the interpreter's start estimated."""
    told_ms = (
        process.runtime_import_ms + process.load_ms + process.first_inference_ms
        + sum(process.warmup_ms) + sum(process.copies_ms) + sum(process.device_ms)
    )  # fmt: skip
    return _START_S + told_ms / MS_PER_S + process.window_s


def _throughput(processes: Sequence[ProcessRun], run: RunSpec, images: int) -> float:
    """Images per second; with one request at a time, without the time between inferences."""
    scenario = processes[-1].scenario
    if scenario is not None:
        return scenario.throughput_images_s
    if run.in_flight > 1:
        return images / sum(process.window_s for process in processes)
    return MS_PER_S * images / sum(sum(process.samples_ms) for process in processes)


def _energy(processes: Sequence[ProcessRun], images: int) -> tuple[float | None, str]:
    """Joules per image, and by which meter; None in scenarios, or if a process read none."""
    spent = [process.energy_j for process in processes if process.energy_j is not None]
    if len(spent) < len(processes) or processes[-1].scenario is not None:
        return None, ""
    return sum(spent) / images, processes[-1].energy_source


def _advice(
    processes: Sequence[ProcessRun], half_width_percent: float, sampling: SamplingSpec
) -> tuple[str, ...]:
    """What makes a row unsteady, each with a remedy; empty for a steady one."""
    found = []
    if half_width_percent > sampling.target_half_width_percent:
        found.append(
            f"the 95 % interval is +-{half_width_percent:.1f} %, wider than the "
            f"{sampling.target_half_width_percent:g} % aimed at: raise --budget-s or --processes"
        )
    if any(process.warmup_ended_by == "limit" for process in processes):
        found.append("inferences still got faster when warm-up ended: raise --warmup-limit-s")
    if _processes_differ(processes):
        found.append("processes differ from each other: pin them (taskset), close other programs")
    load, threads = processes[0].load_average_1min, processes[-1].environment.threads_available
    if load is not None and load > _BUSY_FACTOR * threads:
        found.append(f"the machine was busy (load {load:.1f}): close other programs")
    if any(p.after.gpu_throttle_reasons for p in processes) or _throttled(processes):
        found.append("clocks were throttled: cool the machine, or lock its clocks")
    if any((p.before.gpu_processes or 0) > 1 for p in processes):
        found.append("other processes use the GPU: end them, or wait for them")
    return tuple(found)


def _processes_differ(processes: Sequence[ProcessRun]) -> bool:
    if len(processes) < 2:
        return False
    own = [process_interval(process.samples_ms) for process in processes]
    medians = [interval.median for interval in own]
    spread = math.log(max(medians)) - math.log(min(medians))
    half = max(interval.half_width_percent for interval in own) / 100
    return spread > _SPREAD_SHARE and spread > _SPREAD_FACTOR * half


def _throttled(processes: Sequence[ProcessRun]) -> bool:
    counts = [(p.before.cpu_throttle_events, p.after.cpu_throttle_events) for p in processes]
    return any(b is not None and a is not None and a > b for b, a in counts)
