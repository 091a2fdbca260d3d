"""Figures for papers: accuracy over latency, throughput over batch size, share of time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.backbones.complexity import KINDS
from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import write_atomically
from stmdeploy.report.colours import colours_of
from stmdeploy.report.invariance import invariance_figure
from stmdeploy.report.layers import percent_by_kind
from stmdeploy.report.recommendation import accuracy_of, latency_of
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import CLASSIFICATION, DETECTION
from stmdeploy.spec.run import LOOP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
_MARKERS = "osD^v<>P"
_DOTS_PER_INCH = 130
_HINT = "run `stmdeploy profile` on a catalogue backbone, or `stmdeploy evaluate`"


def write_figures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draws every figure that the rows have the data for, each as PNG, SVG and PDF.

    Returns:
        The files: ``accuracy-latency``, ``ap-latency``, ``throughput-batch``, ``time-by-part`` and
        ``invariance``.

    Raises:
        StmdeployError: matplotlib is missing, the rows have data for no figure, or a file cannot
            be written.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise StmdeployError(
            "matplotlib is not installed", "pip install 'stmdeploy[plot]'"
        ) from error
    measured = [
        row for row in rows
        if row.measurement is not None and row.failure is None and row.scenario == LOOP
    ]  # fmt: skip
    drawn = {
        "accuracy-latency": _accuracy_latency(measured, CLASSIFICATION),
        "ap-latency": _accuracy_latency(measured, DETECTION),
        "throughput-batch": _throughput_batch(measured),
        "time-by-part": _time_by_part(measured),
        "invariance": _invariance(rows),
    }
    written = []
    for name, figure in drawn.items():
        if figure is None:
            continue
        for form in FORMATS:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=_DOTS_PER_INCH)
            written.append(folder / f"{name}.{form}")
            write_atomically(written[-1], buffer.getvalue())
    if not written:
        raise StmdeployError("no row has what a figure shows", _HINT)
    return written


def _accuracy_latency(rows: Sequence[Row], task: str) -> Figure | None:
    """Top-1, measured or else published, over latency per image, one panel per batch; for detection
    backbones the published box AP.

    Bars are 95 % intervals; colours are STMs, markers are runtimes.
    """
    drawn = [row for row in rows if row.task == task and accuracy_of(row) is not None]
    if not drawn:
        return None
    batches = sorted({row.batch for row in drawn})
    figure = _figure(4.8 * len(batches), 4.2)
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for panel, batch in zip(panels, batches, strict=True):
        _draw_panel(panel, drawn, batch)
    kinds = sorted({found.kind for found in map(accuracy_of, drawn) if found is not None})
    what = "top-1, %" if task == CLASSIFICATION else "box AP, %"
    panels[0].set_ylabel(f"{what} ({', '.join(kinds)})")
    figure.suptitle(_title(drawn), fontsize=10)
    return figure


def _throughput_batch(rows: Sequence[Row]) -> Figure | None:
    """Images per second over batch size, a line for every model and way of running it."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row.measurement is not None:
            name = ", ".join(
                map(str, (row.model, row.runtime, row.precision, row.device_name, row.lowering,
                          row.image, f"{row.threads} threads",
                          f"{row.in_flight} in flight"))
            )  # fmt: skip
            lines.setdefault(name, []).append((row.batch, row.measurement.throughput_images_s))
    if not any(len(points) > 1 for points in lines.values()):
        return None
    figure = _figure(7, 4.2)
    panel = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        x, y = zip(*sorted(points), strict=True)
        panel.plot(x, y, marker=_MARKERS[i % len(_MARKERS)], label=name)
    panel.set_xscale("log", base=2)
    panel.set_xlabel("batch")
    panel.set_ylabel("images/s (measured)")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)
    return figure


def _time_by_part(rows: Sequence[Row]) -> Figure | None:
    """Share of an inference by kind of part, a bar for every row."""
    told = [(row, row.parts_ms) for row in rows if row.parts_ms]
    if not told:
        return None
    figure = _figure(7, 1.2 + 0.3 * len(told))
    panel = figure.subplots()
    names = [f"{r.model}, {r.runtime}, {r.precision}, batch {r.batch}" for r, _ in told]
    left = [0.0] * len(told)
    by_kind = [percent_by_kind(parts) for _, parts in told]
    for kind in KINDS:
        shares = [percent[kind] for percent in by_kind]
        if any(shares):
            panel.barh(range(len(told)), shares, left=left, label=kind)
            left = [a + b for a, b in zip(left, shares, strict=True)]
    panel.set_yticks(range(len(told)), names, fontsize=7)
    panel.invert_yaxis()
    panel.set_xlabel("% of an inference, by the runtime's profiler")
    panel.legend(ncols=len(KINDS), fontsize=7, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    return figure


def _invariance(rows: Sequence[Row]) -> Figure | None:
    """The curves of consistency of every artifact that has them."""
    found = [row.invariance for row in rows if row.invariance is not None]
    once = {(one.artifact_sha256, one.runtime, one.provider): one for one in found}
    return invariance_figure(list(once.values())) if once else None


def _figure(width: float, height: float) -> Figure:
    """An empty figure, its sides in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _title(rows: Sequence[Row]) -> str:
    ways = zip(*((row.runtime, row.device_name, str(row.threads)) for row in rows), strict=True)
    runtimes, devices, threads = (", ".join(sorted(set(names))) for names in ways)
    return f"{runtimes} on {devices}, threads: {threads}"


def _draw_panel(panel: Axes, rows: Sequence[Row], batch: int) -> None:
    def way(row: Row) -> tuple[str, str, str]:
        return row.runtime, row.device_name, row.precision

    colours, ways = colours_of(row.stm for row in rows), sorted(set(map(way, rows)))
    for row in rows:
        m, accuracy = row.measurement, accuracy_of(row)
        if row.batch != batch or m is None or accuracy is None:
            continue
        y, latency = accuracy.value, latency_of(m)
        x = latency.value / batch
        panel.errorbar(
            [x], [y],
            xerr=[[x - latency.low / batch], [latency.high / batch - x]],
            yerr=[[y - accuracy.low], [accuracy.high - y]],
            fmt=_MARKERS[ways.index(way(row)) % len(_MARKERS)],
            color=colours[row.stm], capsize=3,
        )  # fmt: skip
        panel.annotate(
            f"{row.stm} {row.scale}",
            (x, y),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=8,
        )
    panel.set_title(f"batch {batch}")
    panel.set_xlabel("latency per image, ms (median, 95 % interval)")
    panel.grid(alpha=0.3)
    panel.margins(0.18, 0.1)
