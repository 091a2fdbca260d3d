"""One measured row, with known times."""

from __future__ import annotations

import numpy as np
import pytest

from stmdeploy.measure.session import measure, peak_memory_mib
from stmdeploy.spec import SamplingSpec
from tests.fakes import FakeClock, FakeRunner


def test_measurement_of_known_times() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, [30.0, *[8.0] * 5, *[4.0, 6.0] * 50])

    def load() -> FakeRunner:
        clock.advance_ms(250.0)
        return runner

    images = np.ones((8, 3, 4, 4), np.float32)
    spec = SamplingSpec(budget_s=0.5, warmup_s=0.001, warmup_min=5)
    result = measure(load, images, clock, spec, lambda: 1.5)
    assert result.load_ms == 250.0
    assert result.first_inference_ms == 30.0
    assert result.warmup_ms == (8.0,) * 5
    assert set(result.samples_ms) == {4.0, 6.0}
    assert result.latency_ms_min == 4.0
    assert result.latency_ms_p50_low <= result.latency_ms_p50 <= result.latency_ms_p50_high
    total_s = sum(result.samples_ms) / 1000
    assert result.throughput_images_s == pytest.approx(8 * len(result.samples_ms) / total_s)
    assert result.latency_ms_p90 == 6.0
    assert result.latency_ms_p99 is None
    assert result.stopped_by == "budget"
    assert result.load_average_1min == 1.5
    assert runner.prepared is images


def test_peak_memory_follows_an_allocation() -> None:
    before = peak_memory_mib()
    block = np.ones(64 * 2**20 // 8)
    assert block.sum() > 0
    assert peak_memory_mib() >= before
    assert peak_memory_mib() > 64
