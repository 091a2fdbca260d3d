"""MLPerf's scenarios by the real LoadGen: requests come by its rules, and it gives the verdict.

Rules: MLPerf Inference, LoadGen (github.com/mlcommons/inference/tree/master/loadgen). Server's
arrivals are a Poisson process; its rate is first searched (FindPeakPerformance), then run.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from stmdeploy.errors import StmdeployError
from stmdeploy.measure.clock import HostClock
from stmdeploy.measure.sampling import timed
from stmdeploy.measure.statistics import percentile_floor
from stmdeploy.plugins.runner import Runner
from stmdeploy.schema.measurement import ScenarioResult
from stmdeploy.spec.run import RunSpec, ScenarioSpec
from stmdeploy.spec.units import MS_PER_S, NS_PER_MS, NS_PER_S

#: What early stopping asks of the percentile that each is judged by: of single-stream's 90th,
#: of multi-stream's 99th; of server's with room for some that break the limit.
MIN_QUERIES = {
    "single-stream": percentile_floor(0.90),
    "multi-stream": percentile_floor(0.99),
    "server": 1000,
    "offline": 1,
}
#: The search starts at this share of what one request after the other would reach.
_FIRST_SHARE = 0.3
#: A rate that was found and then fails is tried again this much lower, so often.
_LOWER, _TRIES = 0.85, 6
_SEARCH_SHARE, _MIN_SEARCH_QUERIES = 0.3, 100
_MARK = ":::MLLOG "
#: Why LoadGen may say INVALID.
_CHECKS = {
    "result_perf_constraints_met": "the latency limit was broken",
    "result_min_duration_met": "the run was too short",
    "result_min_queries_met": "too few queries",
    "early_stopping_met": "too few queries for the percentile",
}


def why_no_loadgen() -> str:
    """What to type where LoadGen is not installed; empty where it is."""
    return "" if find_spec("mlperf_loadgen") else "pip install 'stmdeploy[loadgen]'"


def play(lanes: list[Runner], run: RunSpec, logs: Path) -> ScenarioResult:
    """Runs a scenario over a loaded model.

    Args:
        lanes: one for every request in flight, prepared and warm.
        run: the scenario and the batch.
        logs: the folder that LoadGen's logs go to; made if it is not there.

    Raises:
        StmdeployError: LoadGen is missing, or the latency asked for cannot be kept by one
            request alone.
    """
    if hint := why_no_loadgen():
        raise StmdeployError("mlcommons-loadgen is not installed", hint)
    logs.mkdir(parents=True, exist_ok=True)
    latency_s = _typical_s(lanes[0])
    system = _System(lanes, run.batch)
    spec = run.scenario
    if spec.name == "server":
        return _server(system, spec, latency_s, logs)
    settings = _settings(spec, run.batch, latency_s)
    return _played(system, settings, spec, logs, None)


def _typical_s(runner: Runner) -> float:
    """Seconds of an inference, the median of a few."""
    return median(timed(runner.run, HostClock()) for _ in range(5)) / NS_PER_S


class _System:
    """LoadGen's system under test: a queue of samples, and a thread for every request in flight.

    A thread takes as many waiting samples as the batch holds; the last inference of a query
    may be partly empty, and takes as long.
    """

    def __init__(self, lanes: list[Runner], batch: int) -> None:
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lanes, self._batch = lanes, batch
        self.failures: list[Exception] = []

    def serve(self, test: Callable[[Callable[[list[Any]], None]], None]) -> None:
        """Runs a test, which is given what to issue queries to.

        Raises:
            Exception: what the first inference that failed raised.
        """
        threads = [
            threading.Thread(target=self._work, args=(lane,), daemon=True) for lane in self._lanes
        ]
        for thread in threads:
            thread.start()
        test(self._issue)
        for _ in threads:
            self._waiting.put(None)
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _issue(self, samples: list[Any]) -> None:
        for start in range(0, len(samples), self._batch):
            self._waiting.put([sample.id for sample in samples[start : start + self._batch]])

    def _work(self, lane: Runner) -> None:
        import mlperf_loadgen as loadgen

        while (ids := self._waiting.get()) is not None:
            try:
                if not self.failures:
                    lane.run()
            except Exception as error:  # noqa: BLE001  (raised by `serve`; LoadGen waits for answers)
                self.failures.append(error)
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(i, 0, 0) for i in ids])


def _settings(spec: ScenarioSpec, batch: int, latency_s: float) -> Any:
    import mlperf_loadgen as loadgen

    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, spec.name.title().replace("-", ""))
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(MS_PER_S * spec.duration_s)
    settings.min_query_count = MIN_QUERIES[spec.name]
    settings.single_stream_expected_latency_ns = int(latency_s * NS_PER_S)
    settings.multi_stream_expected_latency_ns = int(latency_s * NS_PER_S)
    settings.multi_stream_samples_per_query = batch
    settings.offline_expected_qps = batch / latency_s
    return settings


def _server(system: _System, spec: ScenarioSpec, latency_s: float, logs: Path) -> ScenarioResult:
    """Searches the highest rate whose 99th percentile keeps the limit, then runs it."""
    import mlperf_loadgen as loadgen

    assert spec.target_latency_ms is not None
    if MS_PER_S * latency_s >= spec.target_latency_ms:
        raise StmdeployError(
            f"one request alone takes {MS_PER_S * latency_s:.1f} ms, "
            f"longer than the {spec.target_latency_ms:g} ms asked for",
            "raise --target-latency-ms",
        )
    settings = _settings(spec, 1, latency_s)
    settings.server_target_latency_ns = int(spec.target_latency_ms * NS_PER_MS)
    settings.server_target_latency_percentile = 0.99
    settings.server_target_qps = _FIRST_SHARE / latency_s
    settings.mode = loadgen.TestMode.FindPeakPerformance
    settings.min_duration_ms = int(MS_PER_S * _SEARCH_SHARE * spec.duration_s)
    settings.min_query_count = _MIN_SEARCH_QUERIES
    search = logs / "search"
    search.mkdir(exist_ok=True)
    _test(system, settings, search)
    rate = _peak(_log(search)) or settings.server_target_qps
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(MS_PER_S * spec.duration_s)
    settings.min_query_count = MIN_QUERIES[spec.name]
    for _ in range(_TRIES):
        settings.server_target_qps = rate
        result = _played(system, settings, spec, logs, rate)
        if result.valid:
            break
        rate *= _LOWER
    return result


def _played(
    system: _System, settings: Any, spec: ScenarioSpec, logs: Path, rate: float | None
) -> ScenarioResult:
    _test(system, settings, logs)
    log = _log(logs)
    valid = log.get("result_validity") == "VALID"
    images_per_query = settings.multi_stream_samples_per_query if spec.name == "multi-stream" else 1
    return ScenarioResult(
        scenario=spec.name,
        valid=valid,
        reasons=() if valid else tuple(w for key, w in _CHECKS.items() if log.get(key) is False),
        queries=int(log.get("result_query_count", 0)),
        latency_ms_p50=_ms(log, "result_50.00_percentile_latency_ns"),
        latency_ms_p90=_ms(log, "result_90.00_percentile_latency_ns"),
        latency_ms_p99=_ms(log, "result_99.00_percentile_latency_ns"),
        throughput_images_s=_rate(log) * images_per_query,
        target_queries_s=rate,
        target_latency_ms=spec.target_latency_ms,
        logs=str(logs),
        loadgen_version=version("mlcommons-loadgen"),
    )


def _test(system: _System, settings: Any, logs: Path) -> None:
    """One LoadGen test, its logs in a folder."""
    import mlperf_loadgen as loadgen

    log_settings, output = loadgen.LogSettings(), loadgen.LogOutputSettings()
    output.outdir = str(logs)
    output.copy_summary_to_stdout = False
    log_settings.log_output = output
    log_settings.enable_trace = False
    # The library of samples: the input is on the device already, and always the same.
    samples = loadgen.ConstructQSL(1, 1, lambda _: None, lambda _: None)

    def test(issue: Callable[[list[Any]], None]) -> None:
        sut = loadgen.ConstructSUT(issue, lambda: None)
        try:
            loadgen.StartTestWithLogSettings(sut, samples, settings, log_settings)
        finally:
            loadgen.DestroySUT(sut)

    try:
        system.serve(test)
    finally:
        loadgen.DestroyQSL(samples)


def _log(logs: Path) -> dict[str, Any]:
    """LoadGen's detailed log by key; of several entries of one key, the last."""
    lines = (logs / "mlperf_log_detail.txt").read_text("utf-8").splitlines()
    entries = [json.loads(line.removeprefix(_MARK)) for line in lines if line.startswith(_MARK)]
    return {entry["key"]: entry["value"] for entry in entries}


def _peak(log: dict[str, Any]) -> float | None:
    found = str(log.get("generic_message", ""))
    words = "Found peak performance field:"
    return float(found.partition(words)[2]) if words in found else None


def _rate(log: dict[str, Any]) -> float:
    """Samples per second, under the name that the scenario logs it by."""
    names = ("completed_samples_per_sec", "samples_per_second", "qps_with_loadgen_overhead")
    return next((float(log[f"result_{name}"]) for name in names if f"result_{name}" in log), 0.0)


def _ms(log: dict[str, Any], key: str) -> float | None:
    return float(log[key]) / NS_PER_MS if key in log else None
