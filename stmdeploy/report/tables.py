"""Tables of text: headers and cells, ready for a terminal or for Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stmdeploy.complexity import Complexity
from stmdeploy.reading import one_line
from stmdeploy.report.escaping import latex_text, markdown_text
from stmdeploy.results.row import Peaks, Row
from stmdeploy.spec import LOOP

#: What stands where there is no figure.
ABSENT = "-"
#: Settings that go without saying.
_USUAL = {("python", "this"), ("node", "this machine"), ("in flight", "1"), ("scenario", LOOP)}
#: What stands before a figure that was not measured steadily.
UNSTEADY = "~"


@dataclass(frozen=True)
class TextTable:
    """A table as text; `left` columns are left-aligned, the others right. Notes go below.

    The first `keys` columns say what a row is: they are never wrapped and always shown. Where
    there is no room, texts of the columns `wrap` wrap, then the columns `drop_first` go, the least
    important first, and after them the others from the right.
    """

    headers: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    left: int = 1
    notes: tuple[str, ...] = ()
    keys: int = 1
    drop_first: tuple[str, ...] = ()
    wrap: tuple[str, ...] = ()
    title: str = ""

    def markdown(self) -> str:
        """The table in GitHub's Markdown, its notes as paragraphs."""
        rule = [":---" if i < self.left else "---:" for i in range(len(self.headers))]
        texts = (map(markdown_text, line) for line in self.cells)
        lines = ["| " + " | ".join(line) + " |" for line in (self.headers, rule, *texts)]
        above = [markdown_text(self.title), ""] if self.title else []
        notes = (f"\n{markdown_text(note)}" for note in self.notes)
        return "\n".join([*above, *lines, *notes])

    def latex(self) -> str:
        """The table for LaTeX with the package booktabs, its notes as comments."""
        columns = "".join("l" if i < self.left else "r" for i in range(len(self.headers)))
        lines = [
            *(f"% {one_line(note)}" for note in (self.title, *self.notes) if note),
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_line(self.headers),
            r"\midrule",
            *map(_latex_line, self.cells),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines)


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"


def _number(value: float | None, digits: int = 1) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def significant(value: float, digits: int = 3) -> str:
    """A number in so many significant digits or all its whole ones: 0.0042, 12.3, 1234."""
    rounded = abs(float(f"{value:.{digits}g}"))
    whole = math.floor(math.log10(rounded)) + 1 if rounded else 1
    return f"{value:.{max(0, digits - whole)}f}"


def _significant(value: float | None) -> str:
    return ABSENT if value is None else significant(value)


def _scenario(row: Row) -> str:
    """The scenario, with LoadGen's verdict where there is one."""
    result = row.measurement.scenario if row.measurement else None
    if result is None:
        return row.scenario
    return f"{row.scenario} {'valid' if result.valid else 'INVALID'}"


def profile_table(rows: Sequence[Row]) -> TextTable:
    """Accuracy beside cost, one line per row; columns that never vary are in the notes."""
    settings = varying_settings(rows)
    measured = ("measured top-1 %",) if any(row.accuracy for row in rows) else ()
    headers = (
        "backbone", *settings, "batch", "top-1 %", *measured, "latency ms", "95 % interval",
        "p90 ms", "images/s", "efficiency %", "GMACs", "params M", "peak MiB",
    )  # fmt: skip
    cells = tuple(
        (
            row.model,
            *(column[i] for column in settings.values()),
            str(row.batch),
            _number(row.published_top1_percent),
            *(_number(row.accuracy.top1.percent if row.accuracy else None) for _ in measured),
            *_profile_cells(row),
        )
        for i, row in enumerate(rows)
    )
    return TextTable(
        headers,
        cells,
        left=1 + len(settings),
        notes=(*profile_notes(rows), *row_notes(rows)),
        keys=2 + len(settings),
        drop_first=(
            "params M", "GMACs", "peak MiB", "efficiency %", "p90 ms", "images/s", "top-1 %",
            "measured top-1 %", "95 % interval",
        ),
    )  # fmt: skip


def varying_settings(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The settings that are not the same in all rows, row by row."""
    return {name: cells for name, cells in _settings(rows).items() if len(set(cells)) > 1}


def _settings(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What may vary from row to row, and is in the notes where it does not."""
    return {
        "image": [f"{row.image_height_px}x{row.image_width_px}" for row in rows],
        "node": [row.node or "this machine" for row in rows],
        "python": [row.python or "this" for row in rows],
        "runtime": [row.runtime for row in rows],
        "precision": [row.precision for row in rows],
        "lowering": [row.lowering or ABSENT for row in rows],
        "device": [row.device_name for row in rows],
        "threads": [str(row.threads) for row in rows],
        "in flight": [str(row.in_flight) for row in rows],
        "scenario": [_scenario(row) for row in rows],
    }


def _profile_cells(row: Row) -> tuple[str, ...]:
    size = (significant(row.macs / 1e9), significant(row.parameters / 1e6))
    if row.measurement is None or row.failure is not None:
        return ("failed", *[ABSENT] * 4, *size, ABSENT)
    m = row.measurement
    if m.scenario is not None:
        s = m.scenario
        tail = (_significant(s.latency_ms_p90), significant(m.throughput_images_s), ABSENT)
        return (_significant(s.latency_ms_p50), ABSENT, *tail, *size,
                _number(m.memory_peak_mib, 0))  # fmt: skip
    return (
        ("" if m.steady else UNSTEADY) + significant(m.latency_ms_p50),
        f"{significant(m.latency_ms_p50_low)} .. {significant(m.latency_ms_p50_high)}",
        _significant(m.latency_ms_p90),
        significant(m.throughput_images_s),
        ABSENT if row.efficiency is None else f"{100 * row.efficiency:.0f}",
        *size,
        _number(m.memory_peak_mib, 0),
    )


def profile_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """How rows were measured, and where."""
    fixed = [
        f"{name} {cells[0]}"
        for name, cells in _settings(rows).items()
        if len(set(cells)) == 1 and (name, cells[0]) not in _USUAL
    ]
    measured = sorted({_machine(row) for row in rows})
    weights = sorted({row.weights for row in rows})
    uncounted = sorted({operator for row in rows for operator in row.uncounted_operators})
    return (
        "top-1 (ImageNet-1k) is published by the authors, not measured here; it was published of "
        "float32.",
        *_evaluation_notes(rows),
        f"Latency is the median of one inference, with its 95 % interval over {_processes(rows)}; "
        f"weights: {', '.join(weights)}; {', '.join(fixed)}.",
        *(f"Measured on {machine}." for machine in measured),
        f"MACs leave out: {', '.join(uncounted) or 'nothing'}.",
        *_peak_notes(rows),
    )


def row_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """What was not as it should be, and what to try; and why rows failed."""
    failed = [
        f"failed: {row.model}, batch {row.batch}: {row.failure}" for row in rows if row.failure
    ]
    unsteady = [
        f"{UNSTEADY} {row.model}, {row.runtime}, batch {row.batch}: "
        f"{'; '.join(row.measurement.advice)}"
        for row in rows
        if row.measurement is not None and row.measurement.advice and row.failure is None
    ]
    again = [
        f"tried {len(row.tries)} times: {row.model}, {row.node}, batch {row.batch}: "
        + "; ".join(f"{t.node or 'a lost node'}: {t.failure}" for t in row.tries if t.failure)
        for row in rows
        if len(row.tries) > 1
    ]
    return (*unsteady, *failed, *again)


def _evaluation_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    data = {f"{row.accuracy.images} images of {row.accuracy.data}" for row in rows if row.accuracy}
    if not data:
        return ()
    return (f"Measured top-1 is of the very artifact: {', '.join(sorted(data))}.",)


def _peak_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    peaks = sorted({peaks_in_words(row.bound.peaks) for row in rows if row.bound is not None})
    if not peaks:
        return ()
    return (
        f"Efficiency is the roofline bound, which is not measured, over the latency; peaks "
        f"{'; '.join(peaks)}.",
    )


def peaks_in_words(peaks: Peaks) -> str:
    """What a processor can do at most, and who says so."""
    best = {rate.precision: rate for rate in sorted(peaks.rates, key=lambda rate: rate.tflops)}
    rates = ", ".join(
        f"{rate.precision} {significant(1e3 * rate.tflops)} GFLOP/s ({rate.by})"
        for rate in best.values()
    )
    speeds = [level.gb_s for level in peaks.memory if level.gb_s is not None]
    memory = " .. ".join(significant(speed) for speed in dict.fromkeys((speeds[0], speeds[-1])))
    return f"{peaks.kind}: {rates}, {memory} GB/s; {peaks.source}"


def peaks_table(title: str, peaks: Peaks) -> TextTable:
    """What a processor reached: rates by precision, bandwidths by what is touched."""
    cells = [
        (f"products, {rate.precision}", f"{significant(1e3 * rate.tflops)} GFLOP/s", rate.by)
        for rate in peaks.rates
    ]
    for level in peaks.memory:
        size = "more" if level.up_to_mib is None else f"up to {level.up_to_mib:g} MiB"
        cells.append((f"copies that touch {size}", f"{significant(level.gb_s or 0)} GB/s", "torch"))
    headers = ("what", peaks.kind, "by")
    return TextTable(headers, tuple(cells), notes=(f"{peaks.source}.",), title=title)


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


def count_table(counts: Sequence[tuple[str, Complexity]]) -> TextTable:
    """One line per model: parameters, MACs, and where they are."""
    kinds = [
        kind
        for kind in ("stem", "downsample", "mixer", "mlp", "norm", "head", "other")
        if any(complexity.by_kind.get(kind) for _, complexity in counts)
    ]
    headers = ("model", "params M", "GMACs", "matmul+conv", *(f"{kind} %" for kind in kinds))
    cells = tuple(
        (
            name,
            significant(c.parameters / 1e6, 4),
            significant(c.macs / 1e9, 4),
            significant(c.matmul_conv_macs / 1e9, 4),
            *(_number(100 * c.by_kind.get(kind, 0) / max(c.macs, 1)) for kind in kinds),
        )
        for name, c in counts
    )
    uncounted = tuple(
        f"{name}: not counted: {_calls(c.uncounted)}; only moves data: {_calls(c.data_movement)}."
        for name, c in counts
    )
    return TextTable(
        headers,
        cells,
        notes=("MACs (multiply-accumulates) of one image; FLOPs are about twice that.", *uncounted),
        drop_first=(
            "other %", "head %", "stem %", "downsample %", "norm %", "matmul+conv", "mlp %",
            "mixer %", "params M",
        ),
    )  # fmt: skip


def module_table(name: str, complexity: Complexity) -> TextTable:
    """MACs of every module of one model, children included."""
    cells = tuple(
        (module, significant(macs / 1e6, 4), _number(100 * macs / max(complexity.macs, 1), 2))
        for module, macs in complexity.by_module.items()
    )
    return TextTable(("module", "MMACs", "%"), cells, title=name)


def _calls(operators: dict[str, int]) -> str:
    return ", ".join(f"{op} x{n}" for op, n in operators.items()) or "nothing"
