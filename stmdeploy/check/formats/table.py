"""A check, and a baseline, as tables for a terminal and for Markdown."""

from __future__ import annotations

from stmdeploy.check.bundle import Baseline
from stmdeploy.check.formats import words
from stmdeploy.check.outcome import FAILED, OUTPUTS_DIFFER, CheckResult
from stmdeploy.check.verdict import Verdict
from stmdeploy.report.text_table import BAD, GOOD, OPEN, TextTable, significant

_HEADERS = (
    "row", "verdict", "slowdown", "interval", "overall", "threshold", "baseline ms",
    "candidate ms", "pairs",
)  # fmt: skip
_VERDICTS = (
    (str(Verdict.REGRESSION), BAD), (OUTPUTS_DIFFER, BAD), (FAILED, BAD),
    (str(Verdict.NO_CHANGE), GOOD), (str(Verdict.IMPROVEMENT), GOOD),
    (str(Verdict.CANNOT_TELL), OPEN),
)  # fmt: skip


def check_table(result: CheckResult) -> TextTable:
    """A line for each row, in the baseline's order; notes below say what to do."""
    cells = tuple(
        (
            row.name,
            row.verdict,
            words.slowdown(row),
            words.interval(row),
            words.overall(row),
            f"{row.threshold_percent:g} %",
            words.latency(row.baseline_latency_ms_p50),
            words.latency(row.candidate_latency_ms_p50),
            str(row.pairs),
        )
        for row in result.rows
    )
    error = f"{100 * result.error_probability:g} %"
    notes = (
        *(f"{row.name}: {'; '.join(row.advice)}" for row in result.rows if row.advice),
        f"{words.summary(result)}. Baseline: {result.baseline}; candidate: {result.candidate}. "
        "Slowdown: of the typical inference, the mean over pairs of fresh processes that took "
        "turns; overall: of all inferences, none left out. The latencies are medians over each "
        "side's processes, whose quotient is not paired. Measured on "
        f"{result.machine.gpu or result.machine.processor}; all intervals together are wrong with "
        f"a probability of at most {error}.",
    )
    least = (
        "pairs", "candidate ms", "baseline ms", "overall", "threshold", "interval", "slowdown",
    )  # fmt: skip
    return TextTable(_HEADERS, cells, left=2, notes=notes, drop_first=least, verdicts=_VERDICTS)


def baseline_table(baseline: Baseline) -> TextTable:
    """A line for each row of a baseline, with the latency that it was stored with."""
    cells = tuple(
        (row.name, significant(row.row.measurement.latency_ms_p50), row.runtime_version)
        for row in baseline.rows
        if row.row.measurement is not None
    )
    notes = (
        f"baseline {baseline.id}, made {baseline.created_utc[:19]} UTC on "
        f"{baseline.machine.gpu or baseline.machine.processor}",
    )
    headers = ("row", "latency ms", "runtime version")
    return TextTable(headers, cells, notes=notes, drop_first=headers[2:])


def markdown(result: CheckResult) -> str:
    """The table in Markdown, with a heading; names stay text."""
    return f"### Latency: {words.summary(result)}\n\n{check_table(result).markdown()}\n"
