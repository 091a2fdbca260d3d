"""MLPerf's scenarios through the real LoadGen, over a runner that sleeps."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from stmdeploy import StmdeployError
from stmdeploy.contracts import Runner
from stmdeploy.measure.loadgen import MIN_QUERIES, play
from stmdeploy.results.row import ScenarioResult
from stmdeploy.spec import RunSpec, ScenarioSpec

pytest.importorskip("mlperf_loadgen")
MS = 4.0


class Sleeper:
    """Every inference takes about 4 ms."""

    def prepare(self, images: object) -> None: ...

    def feed(self, images: object) -> None: ...

    def run(self) -> None:
        time.sleep(MS / 1000)

    def output(self) -> np.ndarray:
        return np.zeros((1, 1), np.float32)

    def facts(self) -> dict[str, str]:
        return {}

    def on_stream(self) -> None:
        return None

    def another(self) -> Runner:
        return self


class Broken(Sleeper):
    def __init__(self) -> None:
        self.left = 8

    def run(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the device is gone")


def played(logs: Path, batch: int, lanes: int = 1, **scenario: object) -> ScenarioResult:
    spec = ScenarioSpec(**scenario)  # type: ignore[arg-type]
    run = RunSpec("fake", batch, 1, in_flight=lanes, scenario=spec)
    return play([Sleeper() for _ in range(lanes)], run, logs)


def test_single_stream(tmp_path: Path) -> None:
    result = played(tmp_path, 1, name="single-stream", duration_s=0.5)
    assert result.valid
    assert result.queries >= 64
    p50, p90 = result.latency_ms_p50, result.latency_ms_p90
    assert p50 is not None and p90 is not None
    assert MS <= p50 <= p90 < 10 * MS
    assert "Result is : VALID" in (tmp_path / "mlperf_log_summary.txt").read_text()


def test_offline_throughput_counts_images(tmp_path: Path) -> None:
    one = played(tmp_path, 4, name="offline", duration_s=0.5)
    two = played(tmp_path, 4, lanes=2, name="offline", duration_s=0.5)
    ideal = 4 * 1000 / MS
    assert 0.4 * ideal < one.throughput_images_s < 1.1 * ideal
    assert two.throughput_images_s > 1.3 * one.throughput_images_s


def test_multi_stream_asks_for_the_batch_at_once(tmp_path: Path) -> None:
    result = played(tmp_path, 8, name="multi-stream", duration_s=0.5)
    assert result.valid
    # Eight images an inference: a query takes one, not eight.
    assert result.latency_ms_p50 is not None
    assert result.latency_ms_p50 < 4 * MS


@pytest.mark.slow
def test_server_finds_a_rate_that_holds(tmp_path: Path) -> None:
    result = played(tmp_path, 1, name="server", duration_s=4.0, target_latency_ms=60.0)
    assert result.valid, result.reasons
    assert result.latency_ms_p99 is not None and result.target_queries_s is not None
    assert result.latency_ms_p99 <= 60.0
    assert 0.3 * 1000 / MS < result.target_queries_s < 1.1 * 1000 / MS
    assert (tmp_path / "search" / "mlperf_log_detail.txt").is_file()


def test_a_limit_that_one_request_breaks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match="longer than the 2 ms asked for"):
        played(tmp_path, 1, name="server", target_latency_ms=2.0)


def test_too_few_queries_are_invalid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIN_QUERIES, "single-stream", 5)
    result = played(tmp_path, 1, name="single-stream", duration_s=0.02)
    assert not result.valid
    assert result.reasons == ("too few queries for the percentile",)


def test_an_inference_that_fails_fails_the_run(tmp_path: Path) -> None:
    run = RunSpec("fake", 1, 1, scenario=ScenarioSpec("single-stream", duration_s=0.2))
    with pytest.raises(RuntimeError, match="the device is gone"):
        play([Broken()], run, tmp_path)
