"""Tables of a processor's peaks, and of models' parameters and MACs."""

from __future__ import annotations

from collections.abc import Sequence

from stmdeploy.backbones.complexity import KINDS, Complexity
from stmdeploy.report.text_table import TextTable, fixed, significant, tally
from stmdeploy.schema.hardware import Peaks


def peaks_table(title: str, peaks: Peaks) -> TextTable:
    """What a processor reached: GFLOP/s by precision, GB/s by how many MiB a copy touches."""
    cells = [
        (f"matrix products, {rate.precision}", f"{significant(1e3 * rate.tflops)} GFLOP/s", rate.by)
        for rate in peaks.rates
    ]
    for level in peaks.memory:
        size = "more" if level.up_to_mib is None else f"up to {level.up_to_mib:g} MiB"
        cells.append((f"copies that touch {size}", f"{significant(level.gb_s or 0)} GB/s", "torch"))
    headers = ("what", peaks.kind, "by")
    return TextTable(headers, tuple(cells), notes=(f"{peaks.source}.",), title=title)


def count_table(counts: Sequence[tuple[str, Complexity]]) -> TextTable:
    """One line per model: parameters, MACs, and the share of every kind of part in per cent."""
    kinds = [kind for kind in KINDS if any(c.by_kind.get(kind) for _, c in counts)]
    headers = ("model", "params M", "GMACs", "matmul+conv", *(f"{kind} %" for kind in kinds))
    cells = tuple(
        (
            name,
            significant(c.parameters / 1e6, 4),
            significant(c.macs / 1e9, 4),
            significant(c.matmul_conv_macs / 1e9, 4),
            *(fixed(100 * c.by_kind.get(kind, 0) / max(c.macs, 1)) for kind in kinds),
        )
        for name, c in counts
    )
    uncounted = tuple(
        f"{name}: not counted: {tally(c.uncounted, 'nothing')}; data movement only: "
        f"{tally(c.data_movement, 'nothing')}."
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
        (module, significant(macs / 1e6, 4), fixed(100 * macs / max(complexity.macs, 1), 2))
        for module, macs in complexity.by_module.items()
    )
    return TextTable(("module", "MMACs", "%"), cells, title=name)
