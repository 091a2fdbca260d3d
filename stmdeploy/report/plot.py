"""The picture: published accuracy against measured latency."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.files import write_atomically
from stmdeploy.results.row import Row

FORMATS = (".png", ".svg", ".pdf")


def plot_accuracy_latency(rows: Sequence[Row], path: Path) -> None:
    """Draws ImageNet top-1 (published) over latency per image, one panel per batch.

    Bars are the 95 % intervals of the median. One colour per STM, one marker per runtime.

    Raises:
        StmdeployError: matplotlib is missing, no row has both figures, or an unknown suffix.
    """
    if path.suffix not in FORMATS:
        raise StmdeployError(f"cannot draw to {path}", f"end the name in {' '.join(FORMATS)}")
    drawn = [row for row in rows if row.measurement and row.published_top1_percent is not None]
    if not drawn:
        raise StmdeployError(
            "no row has both a latency and a published accuracy", "profile a catalogue backbone"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StmdeployError(
            "matplotlib is not installed", "pip install 'stmdeploy[plot]'"
        ) from error
    batches = sorted({row.batch for row in drawn})
    figure = Figure(figsize=(4.8 * len(batches), 4.2), layout="constrained")
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    stms = sorted({row.stm for row in drawn})
    runtimes = sorted({row.runtime for row in drawn})
    for panel, batch in zip(panels, batches, strict=True):
        for row in drawn:
            if row.batch == batch:
                _draw(panel, row, f"C{stms.index(row.stm)}", "osD^v<>"[runtimes.index(row.runtime) % 7])
        panel.set_title(f"batch {batch}")
        panel.set_xlabel("latency per image, ms (median, 95 % interval)")
        panel.grid(alpha=0.3)
        panel.margins(0.18, 0.1)
    panels[0].set_ylabel("ImageNet-1k top-1, % (published)")
    first = drawn[0].environment
    figure.suptitle(f"{', '.join(runtimes)} on {first.processor}, {drawn[0].threads} threads", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=130)
    write_atomically(path, buffer.getvalue())


def _draw(panel: object, row: Row, colour: str, marker: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes) and row.measurement is not None
    m = row.measurement
    x = m.latency_ms_p50 / row.batch
    spread = [[(m.latency_ms_p50 - m.latency_ms_p50_low) / row.batch],
              [(m.latency_ms_p50_high - m.latency_ms_p50) / row.batch]]  # fmt: skip
    y = row.published_top1_percent
    panel.errorbar([x], [y], xerr=spread, fmt=marker, color=colour, capsize=3)
    panel.annotate(f"{row.stm} {row.scale}", (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
