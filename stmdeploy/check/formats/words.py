"""Words that several formats share."""

from __future__ import annotations

from collections import Counter

from stmdeploy.check.outcome import CheckedRow, CheckResult
from stmdeploy.check.verdict import Verdict
from stmdeploy.report.text_table import ABSENT


def slowdown(row: CheckedRow) -> str:
    """The slowdown, such as ``+10.2 %``; negative if faster."""
    return ABSENT if row.slowdown_percent is None else f"{row.slowdown_percent:+.1f} %"


def interval(row: CheckedRow) -> str:
    """The slowdown's interval, such as ``+7.1 .. +13.4 %``."""
    if row.slowdown_percent_low is None or row.slowdown_percent_high is None:
        return ABSENT
    return f"{row.slowdown_percent_low:+.1f} .. {row.slowdown_percent_high:+.1f} %"


def overall(row: CheckedRow) -> str:
    """The slowdown over all inferences, such as ``+9.7 %``."""
    return ABSENT if row.overall_percent is None else f"{row.overall_percent:+.1f} %"


def latency(value_ms: float | None) -> str:
    """Milliseconds in three significant digits."""
    return ABSENT if value_ms is None else f"{value_ms:.3g}"


def sentence(row: CheckedRow) -> str:
    """A row in one sentence: verdict, slowdown, what to do."""
    figures = f": {slowdown(row)}, interval {interval(row)}, threshold {row.threshold_percent:g} %"
    known = "" if row.slowdown_percent is None else figures
    return "; ".join((f"{row.name}: {row.verdict}{known}", *row.advice))


def summary(result: CheckResult) -> str:
    """How many rows have each verdict, such as ``1 regression, 3 no change``."""
    counts = Counter(row.verdict for row in result.rows)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def is_good(row: CheckedRow) -> bool:
    """Whether a row asks for nothing to be done."""
    return row.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT)
