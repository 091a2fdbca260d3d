"""MLPerf's scenarios through the real LoadGen, over a runner that sleeps.

How long a sleep takes is known only from below, so nothing here says that it was short.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stmdeploy import StmdeployError
from stmdeploy.measure import loadgen
from stmdeploy.measure.loadgen import MIN_QUERIES, play
from stmdeploy.plugins.runner import Runner
from stmdeploy.schema.measurement import ScenarioResult
from stmdeploy.spec.run import RunSpec, ScenarioSpec

pytest.importorskip("mlperf_loadgen")
MS = 4.0


class Sleeper:
    """Every inference takes 4 ms or longer."""

    def __init__(self) -> None:
        self.runs, self.running = 0, False
        self.beside = 0
        self.others: list[Sleeper] = []

    def prepare(self, *inputs: object) -> None: ...

    def feed(self, *inputs: object) -> None: ...

    def run(self) -> None:
        self.runs, self.running = self.runs + 1, True
        time.sleep(MS / 1000)
        self.beside += any(other.running for other in self.others)
        self.running = False

    def outputs(self) -> tuple[np.ndarray, ...]:
        return (np.zeros((1, 1), np.float32),)

    def facts(self) -> dict[str, str]:
        return {}

    def on_stream(self) -> None:
        return None

    def another(self) -> Runner:
        return self


class Broken(Sleeper):
    left = 8

    def run(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the device is gone")


def played(logs: Path, batch: int, *lanes: Sleeper, **scenario: object) -> ScenarioResult:
    spec = ScenarioSpec(**scenario)  # type: ignore[arg-type]
    run = RunSpec("fake", batch, 1, in_flight=len(lanes) or 1, scenario=spec)
    return play([*lanes] or [Sleeper()], run, logs)


def summary(logs: Path) -> list[str]:
    return (logs / "mlperf_log_summary.txt").read_text().splitlines()


def test_single_stream(tmp_path: Path) -> None:
    # Shorter than the 64 queries that it needs take at least.
    result = played(tmp_path, 1, name="single-stream", duration_s=0.2)
    assert result.valid
    assert result.queries >= 64
    p50, p90 = result.latency_ms_p50, result.latency_ms_p90
    assert p50 is not None and p90 is not None
    assert MS <= p50 <= p90
    assert "Result is : VALID" in (tmp_path / "mlperf_log_summary.txt").read_text()


def test_offline_throughput_counts_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # From it LoadGen knows how many samples it needs.
    monkeypatch.setattr(loadgen, "_typical_s", lambda _: MS / 1000)
    one = played(tmp_path, 4, name="offline", duration_s=0.5)
    # Images, of which four come in every inference; and not more than fit into the time.
    (log,) = [line for line in summary(tmp_path) if line.startswith("Samples per second")]
    assert one.throughput_images_s == pytest.approx(float(log.partition(":")[2]), rel=1e-3)
    assert one.throughput_images_s <= 1.01 * 4 * 1000 / MS
    lanes = Sleeper(), Sleeper()
    for lane, other in (lanes, lanes[::-1]):
        lane.others = [other]
    played(tmp_path, 4, *lanes, name="offline", duration_s=0.5)
    assert all(lane.beside for lane in lanes), "both ran at once"


def test_multi_stream_asks_for_the_batch_at_once(tmp_path: Path) -> None:
    sleeper = Sleeper()
    result = played(tmp_path, 8, sleeper, name="multi-stream", duration_s=0.5)
    assert result.valid
    # Eight images an inference: a query takes one, not eight. Five more find the typical time.
    assert sleeper.runs == result.queries + 5
    assert result.latency_ms_p50 is not None


def test_server_lowers_a_rate_that_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what LoadGen would log: a peak of 100/s, and that the first two runs break the limit."""
    verdicts = iter(("INVALID", "INVALID", "VALID"))
    rates = []

    def test(_: object, settings: Any, logs: Path) -> None:
        rates.append(settings.server_target_qps)
        entries = (
            [("generic_message", "Found peak performance field: 100.0")]
            if logs.name == "search"
            else [("result_validity", next(verdicts)), ("result_perf_constraints_met", False)]
        )
        lines = [f":::MLLOG {json.dumps({'key': key, 'value': value})}" for key, value in entries]
        (logs / "mlperf_log_detail.txt").write_text("\n".join(lines))

    monkeypatch.setattr(loadgen, "_test", test)
    result = played(tmp_path, 1, name="server", target_latency_ms=60_000.0)
    assert result.valid
    assert rates[1:] == pytest.approx([100.0, 85.0, 72.25])
    assert result.target_queries_s == rates[-1]


@pytest.mark.nightly
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
    # On a busy machine the five may also be over before their time is.
    assert "too few queries for the percentile" in result.reasons


def test_an_inference_that_fails_fails_the_run(tmp_path: Path) -> None:
    run = RunSpec("fake", 1, 1, scenario=ScenarioSpec("single-stream", duration_s=0.2))
    with pytest.raises(RuntimeError, match="the device is gone"):
        play([Broken()], run, tmp_path)
