"""Invariance as a table, as curves of the page, and as a figure for papers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import write_atomically
from stmdeploy.report.profile_table import varying
from stmdeploy.report.text_table import ABSENT, TextTable, counted, fixed
from stmdeploy.schema.invariance import Curve, Estimate, Invariance
from stmdeploy.schema.row import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 130
_DASHES = ("-", "--", ":", "-.")
_DIGITS = 6


def invariance_table(found: Sequence[Invariance]) -> TextTable:
    """A line for every artifact and transform: the area under its curve of consistency, and the
    consistency at the middle and at the last level."""
    settings = varying(
        {
            "image": [f"{i.image_size[0]}x{i.image_size[1]}" for i in found],
            "weights": [i.weights for i in found],
            "data": [i.data for i in found],
            "protocol": [i.protocol for i in found],
        }
    )
    headers = (
        "model", "precision", "runtime", *settings, "transform", "consistency %", "95 % interval",
        "more than fp32", "half way %", "at the end %", "top-1 % at the end", "images",
    )  # fmt: skip
    cells = tuple(
        (
            one.model,
            one.precision,
            one.runtime,
            *(column[i] for column in settings.values()),
            *line,
            str(one.images),
        )
        for i, one in enumerate(found)
        for line in _lines(one)
    )
    return TextTable(
        headers,
        cells,
        left=4 + len(settings),
        notes=_notes(found),
        keys=4 + len(settings),
        drop_first=(
            "images", "top-1 % at the end", "half way %", "at the end %", "95 % interval",
        ),
    )  # fmt: skip


def _lines(one: Invariance) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [
        (
            curve.transform,
            *_area(curve.area, curve.area_more_than_fp32),
            fixed(curve.levels[len(curve.levels) // 2].consistency.value),
            fixed(curve.levels[-1].consistency.value),
            fixed(last.value if (last := curve.levels[-1].top1) else None),
        )
        for curve in one.curves
    ]
    if len(lines) > 1:
        whole = _area(one.consistency, one.consistency_more_than_fp32)
        lines.append(("mean", *whole, ABSENT, ABSENT, ABSENT))
    return lines


def _area(area: Estimate, more: Estimate | None) -> tuple[str, str, str]:
    difference = f"{more.value:+.2f} ({more.low:+.2f} .. {more.high:+.2f})" if more else ABSENT
    return fixed(area.value, 2), f"{area.low:.2f} .. {area.high:.2f}", difference


def _notes(found: Sequence[Invariance]) -> tuple[str, ...]:
    data = dict.fromkeys(f"{i.data} ({i.data_sha256[:12]})" for i in found)
    skipped = [
        f"{i.model}, {i.precision}: {counted(i.skipped, 'unreadable image')} skipped."
        for i in found
        if i.skipped
    ]
    protocol = {
        "clean": "Protocol clean: content moves in eight directions, and what leaves the "
        "photograph is black.",
        "authors": "Protocol authors: as the script of the paper's authors does it, in seven "
        "directions and centred again past the margin.",
    }
    return (
        f"Measured over {', '.join(data)}. Consistency: the share of images that keep the top-1 "
        "class of their standard view; the area under its curve is its mean over the levels. "
        "Intervals: bootstrap over the images.",
        *(protocol[name] for name in dict.fromkeys(i.protocol for i in found) if name in protocol),
        *skipped,
    )


def measured_over(found: Sequence[Invariance]) -> str:
    """``72 images of val, protocol clean``, for each data set and protocol."""
    told = (f"{one.images} images of {one.data}, protocol {one.protocol}" for one in found)
    return "; ".join(dict.fromkeys(told))


def invariance_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The curves of the page, each artifact's once, with the places of its rows."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for place, row in enumerate(rows):
        one = row.invariance
        if one is None:
            continue
        key = one.artifact_sha256, one.runtime, one.provider
        same = found.setdefault(
            key,
            {
                "rows": [],
                "model": one.model,
                "stm": one.stm,
                "precision": one.precision,
                "runtime": one.runtime,
                "images": one.images,
                "curves": [_curve_data(curve) for curve in one.curves],
            },
        )
        same["rows"].append(place)
    return list(found.values())


def _curve_data(curve: Curve) -> dict[str, Any]:
    def short(values: Sequence[float]) -> list[float]:
        return [float(f"{value:.{_DIGITS}g}") for value in values]

    return {
        "transform": curve.transform,
        "unit": curve.unit,
        "levels": short([one.level for one in curve.levels]),
        "consistency": short([one.consistency.value for one in curve.levels]),
        "low": short([one.consistency.low for one in curve.levels]),
        "high": short([one.consistency.high for one in curve.levels]),
    }


def write_invariance_figure(found: Sequence[Invariance], path: Path) -> None:
    """Draws the curves of consistency, a panel for each transform: colours are models, dashes
    precisions and runtimes, bands 95 % intervals.

    Raises:
        StmdeployError: as `check_figure`, or the file cannot be written.
    """
    check_figure(path)
    form, buffer = path.suffix.removeprefix("."), io.BytesIO()
    invariance_figure(found).savefig(buffer, format=form, dpi=_DOTS_PER_INCH)
    write_atomically(path, buffer.getvalue())


def check_figure(path: Path) -> None:
    """Raises StmdeployError if no figure can be drawn under a name: matplotlib is missing, or the
    name ends in no known format."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise StmdeployError(f"cannot draw {path}", "end the name in .png, .svg or .pdf")
    if not find_spec("matplotlib"):
        raise StmdeployError("matplotlib is not installed", "pip install 'stmdeploy[plot]'")


def invariance_figure(found: Sequence[Invariance]) -> Figure:
    """The same as a figure."""
    from matplotlib.figure import Figure

    transforms = list(dict.fromkeys(curve.transform for one in found for curve in one.curves))
    models = list(dict.fromkeys(one.model for one in found))
    ways = sorted({(one.precision, one.runtime) for one in found}, key=lambda way: way[0] != "fp32")
    figure = Figure(figsize=(1 + 3.2 * len(transforms), 3.8), layout="constrained")
    panels = figure.subplots(1, len(transforms), sharey=True, squeeze=False)[0]
    for panel, transform in zip(panels, transforms, strict=True):
        for one in found:
            for curve in one.curves:
                if curve.transform != transform:
                    continue
                x = [level.level for level in curve.levels]
                same = [level.consistency for level in curve.levels]
                colour = f"C{models.index(one.model) % 10}"
                dash = _DASHES[ways.index((one.precision, one.runtime)) % len(_DASHES)]
                name = f"{one.model}, {one.precision}, {one.runtime}"
                panel.plot(x, [s.value for s in same], dash, color=colour, label=name)
                low, high = [s.low for s in same], [s.high for s in same]
                panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
                panel.set_xlabel(f"{transform}, {curve.unit}")
        panel.grid(alpha=0.3)
        panel.set_ylim(0, 102)
    panels[0].set_ylabel("consistency, % of images")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=2, fontsize=7)
    figure.suptitle(f"{measured_over(found)}; bands: 95 % over the images", fontsize=9)
    return figure
