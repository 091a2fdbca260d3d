"""Rows of results as a table, accuracy beside cost, with notes on how both were found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stmdeploy.report.alike import alike
from stmdeploy.report.ratios import Compared, compared, in_words, sentences
from stmdeploy.report.text_table import ABSENT, TextTable, fixed, significant
from stmdeploy.results.frame import flat
from stmdeploy.schema.hardware import Peaks
from stmdeploy.schema.measurement import Measurement
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import CLASSIFICATION, DETECTION
from stmdeploy.spec.run import LOOP

#: Defaults that no note mentions.
_USUAL = {
    ("python", "this"), ("node", "this machine"), ("in flight", "1"), ("scenario", LOOP),
    ("repeat", "0"), ("task", CLASSIFICATION), ("neck", ABSENT),
}  # fmt: skip
#: Marks a latency that was not measured steadily.
UNSTEADY = "~"
#: Rows that a note names at most.
_MOST_NAMES = 4


def profile_table(rows: Sequence[Row], reference: str = "") -> TextTable:
    """Accuracy beside cost, one line per row; notes name the settings that do not vary.

    Args:
        reference: the row that others are compared with, as for `compared`.
    """
    settings = varying_settings(rows)
    found = compared(rows, reference)
    beside = {one.row: one for one in found}
    accuracies = _accuracies(rows)
    headers = (
        "backbone", *settings, "batch", *accuracies, "latency ms", "95 % interval",
        *(("x reference", "group") if found else ()),
        "p90 ms", "images/s", "efficiency %", "GMACs", "params M", "peak MiB",
    )  # fmt: skip
    cells = tuple(
        (
            row.model,
            *(column[i] for column in settings.values()),
            str(row.batch),
            *(fixed(accuracy_of(row)) for accuracy_of in accuracies.values()),
            *_cost_cells(row, _beside(i, beside) if found else ()),
        )
        for i, row in enumerate(rows)
    )
    return TextTable(
        headers,
        cells,
        left=1 + len(settings),
        notes=(*sentences(rows, found), *profile_notes(rows), *_row_notes(rows)),
        keys=2 + len(settings),
        drop_first=(
            "params M", "GMACs", "peak MiB", "efficiency %", "p90 ms", "images/s", "mask AP",
            *accuracies, "95 % interval", "group",
        ),
    )  # fmt: skip


def _accuracies(rows: Sequence[Row]) -> dict[str, Callable[[Row], float | None]]:
    """The columns of accuracy that some row can have: AP belongs to detection backbones."""
    found: dict[str, Callable[[Row], float | None]] = {}
    if any(row.task == CLASSIFICATION and row.weights != "file" for row in rows):
        found["top-1 %"] = lambda row: row.published_top1_percent
    if any(row.accuracy for row in rows):
        found["measured top-1 %"] = lambda row: row.accuracy.top1.percent if row.accuracy else None
    if any(row.task == DETECTION for row in rows):
        found["box AP"] = lambda row: flat(row)["published_box_ap_percent"]
        found["mask AP"] = lambda row: flat(row)["published_mask_ap_percent"]
    return found


def varying(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """The columns whose cells are not all the same."""
    return {name: cells for name, cells in columns.items() if len(set(cells)) > 1}


def varying_settings(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The settings that are not the same in all rows, row by row."""
    return varying(_settings(rows))


def _settings(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Settings that may vary from row to row, each with its cell for every row."""
    return {
        "task": [row.task for row in rows],
        "neck": [row.neck or ABSENT for row in rows],
        "image": [row.image for row in rows],
        "node": [row.node or "this machine" for row in rows],
        "python": [row.python or "this" for row in rows],
        "runtime": [row.runtime for row in rows],
        "precision": [row.precision for row in rows],
        "lowering": [row.lowering or ABSENT for row in rows],
        "device": [row.device_name for row in rows],
        "threads": [str(row.threads) for row in rows],
        "in flight": [str(row.in_flight) for row in rows],
        "scenario": [scenario_of(row) for row in rows],
        "repeat": [str(row.repeat) for row in rows],
    }


def scenario_of(row: Row) -> str:
    """The scenario, with LoadGen's verdict where there is one."""
    result = row.measurement.scenario if row.measurement else None
    if result is None:
        return row.scenario
    return f"{row.scenario} {'valid' if result.valid else 'INVALID'}"


def latency_cells(m: Measurement) -> tuple[str, str]:
    """The median in ms, marked where it is not steady, and its 95 % interval; one process alone
    has none, because it knows nothing of other processes."""
    interval = f"{significant(m.latency_ms_p50_low)} .. {significant(m.latency_ms_p50_high)}"
    return (
        ("" if m.steady else UNSTEADY) + significant(m.latency_ms_p50),
        interval if m.processes > 1 else ABSENT,
    )


def _beside(position: int, found: dict[int, Compared]) -> tuple[str, str]:
    """A row's ratio to its reference with its interval, and its group."""
    one = found.get(position)
    if one is None:
        return (ABSENT, ABSENT)
    return ("1" if one.row == one.reference else in_words(one.ratio) or ABSENT, one.group)


def _cost_cells(row: Row, beside: tuple[str, ...]) -> tuple[str, ...]:
    size = (significant(row.macs / 1e9), significant(row.parameters / 1e6))
    m = row.measurement
    if m is None or row.failure is not None:
        return ("failed", ABSENT, *beside, *[ABSENT] * 3, *size, ABSENT)
    loadgen = m.scenario
    latency = (significant(loadgen.latency_ms_p50), ABSENT) if loadgen else latency_cells(m)
    return (
        *latency,
        *beside,
        significant((loadgen or m).latency_ms_p90),
        significant(m.throughput_images_s),
        ABSENT if row.efficiency is None else f"{100 * row.efficiency:.0f}",
        *size,
        fixed(m.memory_peak_mib, 0),
    )


def profile_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Notes on how rows were measured, and where."""
    measurements = [row.measurement for row in rows]
    constant = [
        f"{name} {cells[0]}"
        for name, cells in _settings(rows).items()
        if len(set(cells)) == 1 and (name, cells[0]) not in _USUAL
    ]
    measured = sorted({_machine(row) for row in rows})
    weights = sorted({row.weights for row in rows})
    uncounted = sorted({operator for row in rows for operator in row.uncounted_operators})
    data = {f"{row.accuracy.images} images of {row.accuracy.data}" for row in rows if row.accuracy}
    peaks = {peaks_in_words(row.bound.peaks) for row in rows if row.bound is not None}
    notes = [
        "top-1 (ImageNet-1k) is published by the authors, not measured here; it holds for the "
        "model in float32." if any(row.task == CLASSIFICATION and row.weights != "file"
                                   for row in rows) else "",
        "box AP and mask AP (COCO, Mask R-CNN 1x) are published by the authors, for the detector "
        "with this backbone in float32; the cost is the backbone's, without a detector's heads."
        if any(row.task == DETECTION for row in rows) else "",
        f"Measured top-1 is that of the artifact itself, over {', '.join(sorted(data))}."
        if data else "",
        f"Latency is the median of one inference on this machine at that time, with its 95 % "
        f"interval over {_processes(rows)}; "
        f"weights: {', '.join(weights)}; {', '.join(constant)}.",
        "A row of one process has no interval: it knows nothing of what other processes would take."
        if any(m is not None and m.scenario is None and m.processes == 1 for m in measurements)
        else "",
        *(f"Measured on {machine}." for machine in measured),
        f"MACs leave out: {', '.join(uncounted) or 'nothing'}."
        if any(row.weights != "file" for row in rows) else "",
        "Files that were made elsewhere are not verified; their MACs are those of their graphs: of "
        "matrix products, convolutions and bilinear samples."
        if any(row.weights == "file" for row in rows) else "",
        "Efficiency is the roofline bound (not measured) divided by the latency; peaks "
        f"{'; '.join(sorted(peaks))}." if peaks else "",
    ]  # fmt: skip
    return tuple(filter(None, notes))


def _row_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Notes on rows: those not steady, with what to try, and those that failed, with the reason."""
    failed = [
        f"failed: {row.model}, batch {row.batch}: {row.failure}" for row in rows if row.failure
    ]
    advised = [
        (advice, f"{row.model}, {row.runtime}, batch {row.batch}")
        for row in rows
        if row.measurement is not None and row.failure is None
        for advice in row.measurement.advice
    ]
    unsteady = [
        f"{UNSTEADY} {one.text}: {_listed(one.rows, len(rows))}"
        for one in alike(advised, ranges=True)
    ]
    again = [
        f"tried {len(row.tries)} times: {row.model}, {row.node}, batch {row.batch}: "
        f"{failed_tries(row)}"
        for row in rows
        if len(row.tries) > 1
    ]
    return (*unsteady, *failed, *again)


def _listed(names: Sequence[str], rows: int) -> str:
    """Names of rows, or how many there are."""
    every = list(dict.fromkeys(names))
    if len(names) == rows > 1:
        return f"all {rows} rows"
    more = len(every) - _MOST_NAMES
    return "; ".join(every[:_MOST_NAMES]) + (f"; and {more} more" if more > 0 else "")


def row_in_words(row: Row) -> str:
    """A finished row in a line: its name, and its latency or why it failed."""
    name = f"{row.label} on {row.runtime}, {row.precision}, batch {row.batch}"
    if row.failure is not None or row.measurement is None:
        return f"failed: {name}: {row.failure}"
    latency, interval = latency_cells(row.measurement)
    return f"{name}: {latency} ms{'' if interval == ABSENT else f' ({interval})'}"


def failed_tries(row: Row) -> str:
    """Which attempts on a cluster's nodes failed, and why."""
    return "; ".join(f"{t.node or 'a lost node'}: {t.failure}" for t in row.tries if t.failure)


def peaks_in_words(peaks: Peaks) -> str:
    """A processor's peaks, and where they come from."""
    best = {rate.precision: rate for rate in sorted(peaks.rates, key=lambda rate: rate.tflops)}
    rates = ", ".join(
        f"{rate.precision} {significant(1e3 * rate.tflops)} GFLOP/s ({rate.by})"
        for rate in best.values()
    )
    speeds = [level.gb_s for level in peaks.memory if level.gb_s is not None]
    memory = " .. ".join(significant(speed) for speed in dict.fromkeys((speeds[0], speeds[-1])))
    return f"{peaks.kind}: {rates}, {memory} GB/s; {peaks.source}"


def _processes(rows: Sequence[Row]) -> str:
    counts = sorted({row.measurement.processes for row in rows if row.measurement})
    if not counts:
        return "no process"
    least, most = counts[0], counts[-1]
    number = str(most) if least == most else f"{least} to {most}"
    return f"{number} process{'' if most == 1 else 'es'}"


def _machine(row: Row) -> str:
    machine = row.environment
    virtual = ", virtual machine" if machine.virtual_machine else ""
    versions = ", ".join(
        f"{name} {machine.versions[name]}"
        for name in ("torch", "onnxruntime", "onnxruntime-gpu")
        if name in machine.versions
    )
    gpus = f", {', '.join(machine.gpus)}" if machine.gpus else ""
    return (
        f"{machine.processor} ({machine.cores} cores{virtual}){gpus}, "
        f"{machine.memory_gib:.0f} GiB, {machine.os.partition(' ')[0]}, "
        f"Python {machine.python}, {versions}"
    )
