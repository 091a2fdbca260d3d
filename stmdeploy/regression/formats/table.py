"""The check as a table, for a terminal and for Markdown."""

from __future__ import annotations

from stmdeploy.regression.formats import words
from stmdeploy.regression.outcome import CheckResult
from stmdeploy.report.tables import TextTable

_HEADERS = (
    "row", "verdict", "slowdown", "interval", "threshold", "baseline ms", "candidate ms", "pairs",
)  # fmt: skip


def check_table(result: CheckResult) -> TextTable:
    """One line a row, worst first; what to do stands below."""
    cells = tuple(
        (
            row.name,
            row.verdict,
            words.slowdown(row),
            words.interval(row),
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
        f"Measured on {result.machine.gpu or result.machine.processor}; all intervals together "
        f"are wrong with a probability of at most {error}.",
    )
    return TextTable(_HEADERS, cells, left=2, notes=notes)


def markdown(result: CheckResult) -> str:
    """The table in Markdown, with a headline; names stay text."""
    table = check_table(result)
    safe = TextTable(
        table.headers,
        tuple(tuple(_escaped(cell) for cell in line) for line in table.cells),
        table.left,
        tuple(_escaped(note) for note in table.notes),
    )
    return f"### Latency: {words.summary(result)}\n\n{safe.markdown()}\n"


def _escaped(text: str) -> str:
    for mark in "\\`*_[]<>|#~":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
