"""MLPerf's scenarios, run by the real LoadGen: it issues the requests and gives the verdict.

Rules: MLPerf Inference, LoadGen (github.com/mlcommons/inference/tree/master/loadgen). Requests of
the server scenario arrive as a Poisson process, whose rate is searched (FindPeakPerformance) first.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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

#: The fewest queries of a scenario: what early stopping needs for the percentile that judges it;
#: for server, with room for some queries that break the limit.
MIN_QUERIES = {
    "single-stream": percentile_floor(0.90),
    "multi-stream": percentile_floor(0.99),
    "server": 1000,
    "offline": 1,
}
#: The search starts at this share of the rate that one request after the other would reach.
_FIRST_SHARE = 0.3
#: A rate that was found and then fails is multiplied by this and tried again, so many times in all.
_LOWER, _TRIES = 0.85, 6
#: The length of a search as a share of the run's, and its fewest queries.
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
    """The command that installs LoadGen; empty if it is installed."""
    return "" if find_spec("mlperf_loadgen") else "pip install 'stmdeploy[loadgen]'"


def play(lanes: list[Runner], run: RunSpec, logs: Path) -> ScenarioResult:
    """Runs a scenario over a loaded model.

    Args:
        lanes: one for every request in flight, prepared and warm.
        run: the scenario and the batch.
        logs: the folder for LoadGen's logs; made if it is missing.

    Raises:
        StmdeployError: LoadGen is missing, or one request alone takes longer than the target
            latency of the server scenario.
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
    """The median of five inferences, in seconds."""
    return median(timed(runner.run, HostClock()) for _ in range(5)) / NS_PER_S


class _System:
    """LoadGen's system under test: a queue of samples, and a thread for every request in flight.

    A query is cut into batches; its last inference may be partly empty, and takes as long.
    """

    def __init__(self, lanes: list[Runner], batch: int) -> None:
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lanes, self._batch = lanes, batch
        self.failures: list[Exception] = []

    @contextmanager
    def serving(self) -> Iterator[Callable[[list[Any]], None]]:
        """Starts the threads, and gives what to issue queries to; waits for them at the end.

        Raises:
            Exception: what the first inference that failed raised.
        """
        threads = [
            threading.Thread(target=self._work, args=(lane,), daemon=True) for lane in self._lanes
        ]
        for thread in threads:
            thread.start()
        yield self._issue
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
            except Exception as error:  # noqa: BLE001  (raised by `serving`; LoadGen waits for answers)
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
    settings.server_target_qps = _FIRST_SHARE / latency_s
    settings.server_target_latency_percentile = 0.99
    if spec.target_latency_ms is not None:
        settings.server_target_latency_ns = int(spec.target_latency_ms * NS_PER_MS)
    return settings


def _server(system: _System, spec: ScenarioSpec, latency_s: float, logs: Path) -> ScenarioResult:
    """Searches the highest rate whose 99th percentile keeps the latency limit, then runs it."""
    import mlperf_loadgen as loadgen

    assert spec.target_latency_ms is not None
    if MS_PER_S * latency_s >= spec.target_latency_ms:
        raise StmdeployError(
            f"one request alone takes {MS_PER_S * latency_s:.1f} ms, "
            f"longer than the {spec.target_latency_ms:g} ms asked for",
            "raise --target-latency-ms",
        )
    search, settings = (_settings(spec, 1, latency_s) for _ in range(2))
    search.mode = loadgen.TestMode.FindPeakPerformance
    search.min_duration_ms = int(MS_PER_S * _SEARCH_SHARE * spec.duration_s)
    search.min_query_count = _MIN_SEARCH_QUERIES
    search_logs = logs / "search"
    search_logs.mkdir(exist_ok=True)
    _test(system, search, search_logs)
    rate = _peak(_log(search_logs)) or search.server_target_qps
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
    with ExitStack() as stack:
        # The library of samples: the input is on the device already, and always the same.
        samples = loadgen.ConstructQSL(1, 1, lambda _: None, lambda _: None)
        stack.callback(loadgen.DestroyQSL, samples)
        sut = loadgen.ConstructSUT(stack.enter_context(system.serving()), lambda: None)
        stack.callback(loadgen.DestroySUT, sut)
        loadgen.StartTestWithLogSettings(sut, samples, settings, log_settings)


def _log(logs: Path) -> dict[str, Any]:
    """LoadGen's detailed log by key; the last entry of every key."""
    lines = (logs / "mlperf_log_detail.txt").read_text("utf-8").splitlines()
    entries = [json.loads(line.removeprefix(_MARK)) for line in lines if line.startswith(_MARK)]
    return {entry["key"]: entry["value"] for entry in entries}


def _peak(log: dict[str, Any]) -> float | None:
    """The rate that a search found, in queries per second; None if it found none."""
    found = str(log.get("generic_message", ""))
    words = "Found peak performance field:"
    return float(found.partition(words)[2]) if words in found else None


def _rate(log: dict[str, Any]) -> float:
    """Samples per second; every scenario logs them under another name."""
    names = ("completed_samples_per_sec", "samples_per_second", "qps_with_loadgen_overhead")
    return next((float(log[f"result_{name}"]) for name in names if f"result_{name}" in log), 0.0)


def _ms(log: dict[str, Any], key: str) -> float | None:
    return float(log[key]) / NS_PER_MS if key in log else None
