"""What a low precision costs every part of a model, as a table and as a figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from stmdeploy.files.writing import write_atomically
from stmdeploy.report.invariance import check_figure
from stmdeploy.report.text_table import TextTable, fixed, significant
from stmdeploy.schema.mixed import Kept, Sensitivity

_DOTS_PER_INCH = 130


def sensitivity_table(found: Sequence[Sensitivity]) -> TextTable:
    """A line for every model, precision and part, and one for all parts together."""
    cells = [line for one in found for line in _lines(one)]
    headers = (
        "model", "precision", "part", "error", "agrees %", "top-1 drop", "fp32 ms", "low ms",
        "saved ms",
    )  # fmt: skip
    first = found[0]
    noise = " Noise looks like no photograph: give --data FOLDER." if first.data == "random" else ""
    return TextTable(
        headers,
        tuple(cells),
        left=3,
        keys=3,
        drop_first=("top-1 drop", "fp32 ms", "low ms", "agrees %"),
        notes=(
            f"One part at a time in the low precision, the others in fp32, over {first.images} "
            f"images ({first.data}). Error: relative L2 of the logits against fp32. Milliseconds "
            "are the runtime's profiler's, at batch 1." + noise,
        ),
    )


def _lines(one: Sensitivity) -> list[tuple[str, ...]]:
    lines = [
        (one.model, one.precision, part.part, *_kept(part.kept), significant(part.fp32_ms),
         significant(part.low_ms), _signed(part.saved_ms))
        for part in one.parts
    ]  # fmt: skip
    full = [part.fp32_ms for part in one.parts]
    low = [part.low_ms for part in one.parts]
    whole = (sum(x for x in full if x is not None) if None not in full else None,
             sum(x for x in low if x is not None) if None not in low else None)  # fmt: skip
    saved = None if None in whole else (whole[0] or 0) - (whole[1] or 0)
    together = (*_kept(one.together), *map(significant, whole), _signed(saved))
    return [*lines, (one.model, one.precision, "together", *together)]


def _kept(kept: Kept) -> tuple[str, str, str]:
    drop = kept.top1_drop_percent
    error = kept.relative_l2_error
    return (
        "not finite" if error is None else f"{error:.1e}",
        fixed(kept.agreement_percent),
        "-" if drop is None else f"{drop:+.2f}",
    )


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def write_sensitivity_figure(found: Sequence[Sensitivity], path: Path) -> None:
    """Draws the error of every part, a panel for each model and precision.

    Raises:
        StmdeployError: as `check_figure`, or the file cannot be written.
    """
    check_figure(path)
    from matplotlib.figure import Figure

    most = max(len(one.parts) for one in found)
    figure = Figure(figsize=(4.5 * len(found), 1.2 + 0.25 * most), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for panel, one in zip(panels, found, strict=True):
        names = [part.part for part in one.parts] + ["together"]
        every = [*(part.kept for part in one.parts), one.together]
        errors = [kept.relative_l2_error or float("nan") for kept in every]
        colours = ["C0"] * len(one.parts) + ["C3"]
        panel.barh(range(len(names)), errors, color=colours)
        panel.set_yticks(range(len(names)), names, fontsize=7)
        panel.invert_yaxis()
        panel.set_xscale("log")
        panel.set_xlabel("relative L2 error of the logits")
        panel.set_title(f"{one.model}, {one.precision}, {one.images} images of {one.data}", size=8)
        panel.grid(axis="x", alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=_DOTS_PER_INCH)
    write_atomically(path, buffer.getvalue())
