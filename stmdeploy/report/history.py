"""What rows came to over time, with the steps in it, as a table and as a figure."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stmdeploy.files.writing import write_atomically
from stmdeploy.measure.steps import FEWEST, Step, steps
from stmdeploy.report.invariance import check_figure
from stmdeploy.report.ratios import name_of
from stmdeploy.report.text_table import TextTable, significant

if TYPE_CHECKING:
    from stmdeploy.results.newest import Entry
    from stmdeploy.schema.row import Row

_DOTS_PER_INCH = 130


@dataclass(frozen=True)
class History:
    """One row over time.

    Attributes:
        name: of the row.
        machine: what measured it.
        sweeps, times: ids of the sweeps, and when they measured the row, UTC; the oldest first.
        figures: what each came to.
        unit: of the figures.
        steps: changes of their level.
    """

    name: str
    machine: str
    sweeps: tuple[str, ...]
    times: tuple[str, ...]
    figures: tuple[float, ...]
    unit: str
    steps: tuple[Step, ...]

    @property
    def enough(self) -> bool:
        """Whether there are enough figures for a step to be seen."""
        return len(self.figures) >= 2 * FEWEST


def history_of(
    same: Sequence[Entry], unit: str = "ms", beside: Mapping[int, str] = MappingProxyType({})
) -> History | None:
    """One row over time; None if no entry has such a figure.

    Args:
        same: the entries of one row, the oldest first.
        unit: of the figures.
        beside: the key of the row of every batch whose ratio by turns is looked at; empty for the
            latency in ms.
    """
    known = [(entry, figure) for entry in same if (figure := _figure(entry.row, beside))]
    if not known:
        return None
    row, figures = same[-1].row, tuple(figure for _, figure in known)
    return History(
        name=name_of(row),
        machine=row.device_name,
        sweeps=tuple(entry.sweep for entry, _ in known),
        times=tuple(entry.row.started_utc for entry, _ in known),
        figures=figures,
        unit=unit,
        steps=tuple(steps(figures)),
    )


def _figure(row: Row, beside: Mapping[int, str]) -> float | None:
    """The latency in ms, or its ratio by turns to a row of the same batch; None without it."""
    if not beside:
        return row.measurement.latency_ms_p50 if row.measurement else None
    found = next((one for one in row.contrasts if one.key == beside.get(row.batch)), None)
    return math.exp(found.difference) if found else None


def history_table(found: Sequence[History], threshold_percent: float) -> TextTable:
    """A line for every row: how often it was measured, and its steps."""
    cells = [
        (
            one.name,
            one.machine,
            str(len(one.figures)),
            significant(one.figures[0]),
            significant(one.figures[-1]),
            "; ".join(_told(step, one) for step in one.steps)
            or ("none" if one.enough else "too few to say"),
        )
        for one in found
    ]
    unit = found[0].unit
    return TextTable(
        ("row", "machine", "entries", f"first, {unit}", f"last, {unit}", "steps"),
        tuple(cells),
        left=2,
        wrap=("steps", "machine"),
        drop_first=("machine", f"first, {unit}"),
        notes=(
            f"Steps: where the level changed and stayed so for {FEWEST} entries at least. A row "
            f"whose last step is slower by {threshold_percent:g} % or more makes the exit code 1; "
            f"it takes {2 * FEWEST} entries to say anything.",
        ),
    )


def _told(step: Step, one: History) -> str:
    return f"{step.percent:+.1f} % at {one.times[step.at][:16]} (sweep {one.sweeps[step.at]})"


def history_document(found: Sequence[History]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        {
            "row": one.name,
            "machine": one.machine,
            "unit": one.unit,
            "entries": [
                {"sweep": sweep, "measured_utc": time, "figure": figure}
                for sweep, time, figure in zip(one.sweeps, one.times, one.figures, strict=True)
            ],
            "enough": one.enough,
            "steps": [
                {"sweep": one.sweeps[step.at], "measured_utc": one.times[step.at],
                 "before": step.before, "after": step.after, "percent": step.percent}
                for step in one.steps
            ],
        }
        for one in found
    ]  # fmt: skip


def history_data(found: Sequence[History]) -> list[dict[str, Any]]:
    """For the page's plot: figures with their times and sweeps, and the level of every piece."""
    told = []
    for one in found:
        edges = [0, *(step.at for step in one.steps), len(one.figures)]
        levels = [
            [begin, end, sorted(one.figures[begin:end])[(end - begin) // 2]]
            for begin, end in pairwise(edges)
        ]
        told.append(
            {
                "name": one.name, "machine": one.machine, "unit": one.unit, "times": one.times,
                "sweeps": one.sweeps, "figures": one.figures, "levels": levels,
                "steps": [step.percent for step in one.steps],
            }
        )  # fmt: skip
    return told


def write_history_figure(found: Sequence[History], path: Path) -> None:
    """Draws every row over its entries, with the levels.

    Raises:
        StmdeployError: as `check_figure`, or the file cannot be written.
    """
    check_figure(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.0 + 1.8 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for panel, one in zip(panels, found, strict=True):
        panel.plot(range(len(one.figures)), one.figures, "o", markersize=3)
        edges = [0, *(step.at for step in one.steps), len(one.figures)]
        for begin, end in pairwise(edges):
            middle = sorted(one.figures[begin:end])[(end - begin) // 2]
            panel.hlines(middle, begin - 0.5, end - 0.5, color="C3")
        panel.set_title(f"{one.name}, {one.machine}", size=8)
        panel.set_ylabel(one.unit)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("entry, the oldest first")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=_DOTS_PER_INCH)
    write_atomically(path, buffer.getvalue())
