"""The picture: published accuracy against measured latency."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.errors import StmdeployError
from stmdeploy.files import write_atomically
from stmdeploy.results.row import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
_MARKERS = "osD^v<>P"
_DOTS_PER_INCH = 130


def plot_accuracy_latency(rows: Sequence[Row], path: Path) -> None:
    """Draws ImageNet top-1 (published) over latency per image, one panel per batch.

    Bars are the 95 % intervals of the median; colours are STMs, markers are runtimes.

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
    for panel, batch in zip(panels, batches, strict=True):
        _draw_panel(panel, drawn, batch)
    panels[0].set_ylabel("ImageNet-1k top-1, % (published)")
    figure.suptitle(_title(drawn), fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=_DOTS_PER_INCH)
    write_atomically(path, buffer.getvalue())


def _title(rows: Sequence[Row]) -> str:
    runtimes = ", ".join(sorted({row.runtime for row in rows}))
    threads = ", ".join(sorted({str(row.threads) for row in rows}))
    devices = ", ".join(sorted({row.device_name for row in rows}))
    return f"{runtimes} on {devices}, threads: {threads}"


def _draw_panel(panel: Axes, rows: Sequence[Row], batch: int) -> None:
    stms = sorted({row.stm for row in rows})
    runtimes = sorted({row.runtime for row in rows})
    for row in rows:
        m, top1 = row.measurement, row.published_top1_percent
        if row.batch != batch or m is None or top1 is None:
            continue
        x = m.latency_ms_p50 / batch
        below, above = m.latency_ms_p50 - m.latency_ms_p50_low, m.latency_ms_p50_high
        spread = [[below / batch], [above / batch - x]]
        marker = _MARKERS[runtimes.index(row.runtime) % len(_MARKERS)]
        colour = f"C{stms.index(row.stm)}"
        panel.errorbar([x], [top1], xerr=spread, fmt=marker, color=colour, capsize=3)
        panel.annotate(
            f"{row.stm} {row.scale}",
            (x, top1),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=8,
        )
    panel.set_title(f"batch {batch}")
    panel.set_xlabel("latency per image, ms (median, 95 % interval)")
    panel.grid(alpha=0.3)
    panel.margins(0.18, 0.1)
