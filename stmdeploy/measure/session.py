"""Measures one loaded model: load time, first inference, samples, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.contracts import Runner
from stmdeploy.measure.clock import Clock
from stmdeploy.measure.sampling import Samples, collect
from stmdeploy.measure.statistics import median_interval, percentiles
from stmdeploy.results.row import Measurement
from stmdeploy.spec import SamplingSpec

if TYPE_CHECKING:
    from stmdeploy.contracts import Array

_NS_PER_MS = 1e6


def peak_memory_mib() -> float:
    """The most this process has held in memory (its resident set's high-water mark).

    From ``/proc``, because ``getrusage`` starts a child at its parent's peak.
    """
    try:
        status = Path("/proc/self/status").read_text("ascii")
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) / 1024
    except (OSError, StopIteration):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(
    load: Callable[[], Runner],
    images: Array,
    clock: Clock,
    sampling: SamplingSpec,
    load_average: Callable[[], float | None],
) -> Measurement:
    """Loads a model and measures its inferences over one prepared input.

    Args:
        load: gives the runner; its time is the load time.
        images: N 3 H W float32.
        clock: read before and after every inference.
        sampling: when to stop.
        load_average: read once before sampling.
    """
    memory_before = peak_memory_mib()
    start = clock.now_ns()
    runner = load()
    loaded = clock.now_ns()
    runner.prepare(images)
    prepared = clock.now_ns()
    runner.run()
    first_ns = clock.now_ns() - prepared
    load_now = load_average()
    samples = collect(runner.run, clock, sampling)
    return _summary(
        samples,
        batch=images.shape[0],
        load_ms=(loaded - start) / _NS_PER_MS,
        first_inference_ms=first_ns / _NS_PER_MS,
        memory_before_load_mib=memory_before,
        runtime_facts=runner.facts(),
        load_average_1min=load_now,
    )


def _summary(
    samples: Samples,
    *,
    batch: int,
    load_ms: float,
    first_inference_ms: float,
    memory_before_load_mib: float,
    runtime_facts: dict[str, str],
    load_average_1min: float | None,
) -> Measurement:
    durations = [ns / _NS_PER_MS for ns in samples.samples_ns]
    interval = median_interval(durations)
    tails = percentiles(durations)
    return Measurement(
        latency_ms_p50=interval.median,
        latency_ms_p50_low=interval.low,
        latency_ms_p50_high=interval.high,
        latency_ms_mean=sum(durations) / len(durations),
        latency_ms_min=min(durations),
        latency_ms_p90=tails.get(0.90),
        latency_ms_p95=tails.get(0.95),
        latency_ms_p99=tails.get(0.99),
        throughput_images_s=1000.0 * batch * len(durations) / sum(durations),
        load_ms=load_ms,
        first_inference_ms=first_inference_ms,
        memory_before_load_mib=memory_before_load_mib,
        memory_peak_mib=peak_memory_mib(),
        stopped_by=samples.stopped_by,
        warmup_ms=tuple(ns / _NS_PER_MS for ns in samples.warmup_ns),
        samples_ms=tuple(durations),
        runtime_facts=runtime_facts,
        load_average_1min=load_average_1min,
    )
