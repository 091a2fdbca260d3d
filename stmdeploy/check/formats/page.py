"""An HTML page: the table, and the two latency distributions of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from stmdeploy.check.formats import words
from stmdeploy.check.outcome import CheckedRow, CheckResult
from stmdeploy.measure.statistics import quantile

_BINS = 48
#: Share of the samples at which the axis ends, so that one slow inference hides nothing.
_SHOWN = 0.98


@dataclass(frozen=True)
class Histogram:
    """Bars of both sides over one axis from ``low_ms`` to ``high_ms``; heights from 0 to 1."""

    low_ms: float
    high_ms: float
    baseline: tuple[float, ...]
    candidate: tuple[float, ...]


def page(result: CheckResult) -> bytes:
    """A self-contained HTML file; names with markup in them stay text."""
    from jinja2 import Environment

    template = resources.files(__package__).joinpath("page.html.j2").read_text("utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    rows = [(row, histogram(row)) for row in result.rows]
    text = environment.from_string(template).render(result=result, rows=rows, words=words)
    return text.encode()


def histogram(row: CheckedRow) -> Histogram | None:
    """The samples of a row in bins; None without samples."""
    both = sorted((*row.baseline_samples_ms, *row.candidate_samples_ms))
    if not both:
        return None
    low, high = both[0], quantile(both, _SHOWN)
    before, after = (
        _bars(samples_ms, low, high)
        for samples_ms in (row.baseline_samples_ms, row.candidate_samples_ms)
    )
    return Histogram(low, high, before, after)


def _bars(samples_ms: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    import numpy as np

    counts, _ = np.histogram(samples_ms, _BINS, (low, high))
    return tuple((counts / max(1, counts.max())).tolist())
