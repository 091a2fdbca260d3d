"""Figures by plotly, for notebooks and documentation; the report's page draws its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stmdeploy.errors import StmdeployError
from stmdeploy.report.colours import colours_of
from stmdeploy.report.ratios import Compared, compared, name_of
from stmdeploy.report.recommendation import accuracy_of, latency_of
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import DETECTION
from stmdeploy.spec.run import LOOP

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LAYOUT = {"template": "plotly_white", "margin": {"l": 60, "r": 30, "t": 50, "b": 50}}


def accuracy_over_latency(rows: Sequence[Row], _: str = "") -> go.Figure:
    """Accuracy over latency per image, with the rows that no other beats in both as a line.

    Published accuracy is that of float32; a row of another precision has one only if it was
    measured.
    """
    import plotly.graph_objects as go

    drawn = [
        (row, latency_of(row.measurement), accuracy)
        for row in _measured(rows)
        if row.measurement is not None and (accuracy := accuracy_of(row)) is not None
    ]
    if not drawn:
        raise StmdeployError(
            "no row has an accuracy", "profile catalogue backbones in fp32, or run evaluate"
        )
    figure = go.Figure(layout={**_LAYOUT, "showlegend": False})
    points, colours = [], colours_of(row.stm for row in rows)
    for row, latency, accuracy in drawn:
        x, y = latency.value / row.batch, accuracy.value
        points.append((x, y))
        figure.add_scatter(
            x=[x], y=[y], mode="markers+text", text=[_label(row, rows)],
            textposition="top center", hovertext=[name_of(row)], hoverinfo="text",
            marker={"color": colours[row.stm]},
            error_x={
                "array": [latency.high / row.batch - x],
                "arrayminus": [x - latency.low / row.batch],
            },
            error_y={"array": [accuracy.high - y], "arrayminus": [y - accuracy.low]},
        )  # fmt: skip
    front = _front(points)
    figure.add_scatter(x=[x for x, _ in front], y=[y for _, y in front], mode="lines",
                       line={"dash": "dot", "color": "grey"}, hoverinfo="skip")  # fmt: skip
    kinds = sorted({accuracy.kind for _, _, accuracy in drawn})
    what = "box AP" if any(row.task == DETECTION for row, _, _ in drawn) else "top-1"
    figure.update_xaxes(title="latency per image, ms (median, 95 % interval)")
    figure.update_yaxes(title=f"{what}, % ({', '.join(kinds)})")
    return figure


def forest(rows: Sequence[Row], reference: str = "") -> go.Figure:
    """Every row's latency over that of the reference, with its 95 % interval."""
    import plotly.graph_objects as go

    found = [one for one in compared(rows, reference) if one.ratio is not None]
    if not any(one.row != one.reference for one in found):
        raise StmdeployError(
            "no rows were compared by turns", "profile at least two rows in one sweep"
        )

    def value(one: Compared) -> float:
        return one.ratio.ratio if one.ratio else 1.0

    found.sort(key=value, reverse=True)
    ratios = [one.ratio for one in found if one.ratio is not None]
    figure = go.Figure(layout={**_LAYOUT, "showlegend": False})
    figure.add_scatter(
        x=[ratio.ratio for ratio in ratios],
        y=[name_of(rows[one.row]) for one in found],
        mode="markers",
        error_x={
            "array": [ratio.high - ratio.ratio for ratio in ratios],
            "arrayminus": [ratio.ratio - ratio.low for ratio in ratios],
        },
    )
    figure.add_vline(x=1.0, line_dash="dot", line_color="grey")
    beside = ", ".join(dict.fromkeys(name_of(rows[one.reference]) for one in found))
    figure.update_xaxes(title=f"times the latency of {beside} (95 % interval)")
    figure.update_yaxes(automargin=True)
    return figure


def throughput(rows: Sequence[Row], _: str = "") -> go.Figure:
    """Images per second over the batch, a line for every way to run a model."""
    import plotly.graph_objects as go

    lines: dict[str, list[tuple[int, float]]] = {}
    for row in _measured(rows):
        if row.measurement is not None:
            name = name_of(row).rsplit("/batch", 1)[0]
            lines.setdefault(name, []).append((row.batch, row.measurement.throughput_images_s))
    if not lines:
        raise StmdeployError("no row was measured", "run profile")
    figure = go.Figure(layout=_LAYOUT)
    for name, points in lines.items():
        points.sort()
        x, y = zip(*points, strict=True)
        figure.add_scatter(x=x, y=y, mode="lines+markers", name=name)
    figure.update_xaxes(title="batch", type="log", dtick=0.30103)
    figure.update_yaxes(title="images/s (measured)", rangemode="tozero")
    return figure


PLOTS: dict[str, Callable[[Sequence[Row], str], go.Figure]] = {
    "accuracy": accuracy_over_latency,
    "ratios": forest,
    "throughput": throughput,
}


def _measured(rows: Sequence[Row]) -> list[Row]:
    """The rows of stmdeploy's own loop that were measured."""
    return [
        row for row in rows
        if row.measurement is not None and row.failure is None and row.scenario == LOOP
    ]  # fmt: skip


def _label(row: Row, rows: Sequence[Row]) -> str:
    """What tells a row from the others, in few words."""
    name = " ".join(filter(None, (row.stm if row.scale else row.model, row.scale)))
    more = [
        str(value)
        for value, every in (
            (row.runtime, {one.runtime for one in rows}),
            (row.precision, {one.precision for one in rows}),
            (f"batch {row.batch}", {one.batch for one in rows}),
        )
        if len(every) > 1
    ]
    return ", ".join((name, *more))


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both: less x and more y."""
    best, kept = float("-inf"), []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if y > best:
            best = y
            kept.append((x, y))
    return kept
