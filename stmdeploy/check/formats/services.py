"""Documents for benchmark services: Bencher, and github-action-benchmark with its two formats."""

from __future__ import annotations

import json
from collections.abc import Iterable

from stmdeploy.check.formats import words
from stmdeploy.check.outcome import CheckedRow, CheckResult
from stmdeploy.spec.units import NS_PER_MS


def bencher(result: CheckResult) -> bytes:
    """Bencher Metric Format: the candidate's latency in nanoseconds and throughput per second, its
    built-in measures, with bounds that follow from the slowdown's interval."""
    document = {}
    for row in result.rows:
        latency, throughput = row.candidate_latency_ms_p50, row.candidate_throughput_images_s
        if latency is None or throughput is None:
            continue
        metric = {"value": latency * NS_PER_MS}
        before = row.baseline_latency_ms_p50
        low, high = row.slowdown_percent_low, row.slowdown_percent_high
        if before is not None and low is not None and high is not None:
            lower, upper = (before * (1 + percent / 100) * NS_PER_MS for percent in (low, high))
            metric["lower_value"] = min(lower, metric["value"])
            metric["upper_value"] = max(upper, metric["value"])
        document[row.name] = {"latency": metric, "throughput": {"value": throughput}}
    return _encoded(document)


def smaller_is_better(result: CheckResult) -> bytes:
    """github-action-benchmark's ``customSmallerIsBetter``: the candidate's latency in ms."""
    return _action_benchmark((row, row.candidate_latency_ms_p50, "ms") for row in result.rows)


def bigger_is_better(result: CheckResult) -> bytes:
    """github-action-benchmark's ``customBiggerIsBetter``: the candidate's throughput."""
    return _action_benchmark(
        (row, row.candidate_throughput_images_s, "images/s") for row in result.rows
    )


def _action_benchmark(figures: Iterable[tuple[CheckedRow, float | None, str]]) -> bytes:
    """One entry for each row that has a figure."""
    return _encoded(
        [
            {"name": row.name, "unit": unit, "value": value, "extra": words.sentence(row)}
            for row, value, unit in figures
            if value is not None
        ]
    )


def _encoded(document: object) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
