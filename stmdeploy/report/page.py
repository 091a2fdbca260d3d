"""The report: one HTML file that needs nothing else, neither network nor server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from stmdeploy.backbones.complexity import KINDS
from stmdeploy.hardware.roofline import ASSUMPTIONS
from stmdeploy.report.answer import answers, command_for, measured_in_words
from stmdeploy.report.caveats import caveats, is_unsteady
from stmdeploy.report.colours import PALETTE, colours_of
from stmdeploy.report.columns import COLUMNS, figures_of
from stmdeploy.report.history import History, history_data
from stmdeploy.report.invariance import invariance_data, measured_over
from stmdeploy.report.layers import percent_by_kind
from stmdeploy.report.profile_table import UNSTEADY, peaks_in_words, profile_notes
from stmdeploy.report.ratios import compared, contrast_of, figures_beside, sentences
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import DETECTION

#: Keys that plots need beside the columns'.
_PLOTTED = (
    "top1", "top1_low", "top1_high", "top1_kind", "graph_macs", "graph_bytes", "advice",
    "consistency_percent_low", "consistency_percent_high",
)  # fmt: skip
_DIGITS = 6
#: Pairs of rows whose contrasts a page holds at most; of more, those with the reference alone.
_MOST_PAIRS = 20_000
#: What the sections on rows that failed are called.
_FAILED = "Failed"
_SCRIPTS = ("looks.js", "plots.js", "report.js")


def report_page(
    rows: Sequence[Row],
    title: str,
    created_utc: str,
    failed_since: Sequence[Row] = (),
    reference: str = "",
    histories: Sequence[History] = (),
) -> bytes:
    """The report on some rows.

    Args:
        rows: what the report shows; failed rows and LoadGen's appear in the table only.
        title: heading of the page.
        created_utc: date and time that the heading names.
        failed_since: failures of the same rows that are newer than their measurements.
        reference: the row that others are compared with, as for `compared`.
        histories: rows over time; those measured often enough are drawn.

    Returns:
        HTML in UTF-8.
    """
    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    assets = resources.files("stmdeploy.report").joinpath("assets")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    template = environment.from_string(assets.joinpath("report.html.j2").read_text("utf-8"))
    beside, topics = compared(rows, reference), caveats(rows, failed_since)
    text = template.render(
        title=title,
        created_utc=created_utc,
        rows=rows,
        machines=_machines(rows),
        notes=profile_notes(rows),
        failures=[topic for topic in topics if topic.title.startswith(_FAILED)],
        topics=[topic for topic in topics if not topic.title.startswith(_FAILED)],
        measured=measured_in_words(rows),
        answers=answers(rows, beside),
        command=command_for(rows),
        failed=sum(row.failure is not None for row in rows),
        unsteady=sum(map(is_unsteady, rows)),
        mark=UNSTEADY,
        has_detection=any(row.task == DETECTION for row in rows),
        assumptions=ASSUMPTIONS,
        has_bounds=any(row.bound for row in rows),
        invariances=measured_over([row.invariance for row in rows if row.invariance]),
        sentences=sentences(rows, beside),
        has_history=any(one.enough for one in histories),
        data=page_data(rows, reference, histories),
        plotly=get_plotlyjs(),
        style=assets.joinpath("report.css").read_text("utf-8"),
        scripts=[assets.joinpath(name).read_text("utf-8") for name in _SCRIPTS],
    )
    return text.encode("utf-8", "backslashreplace")


def page_data(
    rows: Sequence[Row], reference: str = "", histories: Sequence[History] = ()
) -> dict[str, Any]:
    """JSON for the page's scripts: columns, rows as lists of values, shares of time, roofs."""
    keys = [column.key for column in COLUMNS] + list(_PLOTTED)
    found = compared(rows, reference)
    beside = figures_beside(rows, found)
    figures = [figures_of(row, beside.get(i)) for i, row in enumerate(rows)]
    return {
        "columns": [asdict(column) for column in COLUMNS],
        "keys": keys,
        "rows": [[_short(one[key]) for key in keys] for one in figures],
        "kinds": KINDS,
        "shares": [_shares(row) for row in rows],
        "roofs": _roofs(rows),
        "invariances": invariance_data(rows),
        "unsteady": UNSTEADY,
        "palette": PALETTE,
        "colours": colours_of(row.stm for row in rows),
        "references": {str(rows[one.row].batch): one.reference for one in found},
        "contrasts": _contrasts(rows, {one.reference for one in found}),
        "histories": history_data([one for one in histories if one.enough]),
    }


def _contrasts(rows: Sequence[Row], references: set[int]) -> list[list[float]]:
    """What pairs of rows that took turns came to: both positions, the logarithm of the latency of
    the first over that of the second, and the half-width of its 95 % interval."""
    places = {row.key: i for i, row in enumerate(rows) if row.contrasts}
    pairs = [
        (i, places[one.key])
        for i, row in enumerate(rows)
        for one in row.contrasts
        if one.key in places and i < places[one.key]
    ]
    if len(pairs) > _MOST_PAIRS:
        pairs = [pair for pair in pairs if references.intersection(pair)]
    found = []
    for i, j in pairs:
        if (contrast := contrast_of(rows[i], rows[j])) is not None:
            half = math.log(contrast.ratio().high) - contrast.difference
            found.append([i, j, _short(contrast.difference), _short(half)])
    return found


def _short(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _shares(row: Row) -> list[float] | None:
    """Per cent of an inference by kind of part; None where its time by part is not known."""
    if not row.parts_ms or not sum(row.parts_ms.values()):
        return None
    return [_short(share) for share in percent_by_kind(row.parts_ms).values()]


def _roofs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rooflines that rows lie under, each once: the highest rate, and every bandwidth."""
    roofs: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in rows:
        if row.bound is None:
            continue
        peaks, gflop_s = row.bound.peaks, 1e3 * row.bound.rate.tflops
        key = (row.device_name, row.precision, row.threads)
        if key in roofs and roofs[key]["gflop_s"] >= gflop_s:
            continue
        roofs[key] = {
            **dict(zip(("device_name", "precision", "threads"), key, strict=True)),
            "gflop_s": _short(gflop_s),
            "gb_s": sorted({_short(level.gb_s) for level in peaks.memory if level.gb_s}),
            "kind": peaks.kind,
        }
    return list(roofs.values())


def _machines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every machine and software that rows were measured with, each once."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        e = row.environment
        key = e.model_dump_json(exclude={"load_average_1min"})
        found.setdefault(key, {"environment": e, "rows": 0, "peaks": set()})["rows"] += 1
        if row.bound is not None:
            found[key]["peaks"].add(f"{row.device_name}: {peaks_in_words(row.bound.peaks)}")
    return [{**one, "peaks": sorted(one["peaks"])} for one in found.values()]
