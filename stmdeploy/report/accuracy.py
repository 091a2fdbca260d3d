"""Measured accuracies as a table, the published ones beside them."""

from __future__ import annotations

from collections.abc import Sequence

from stmdeploy.report.profile_table import varying
from stmdeploy.report.text_table import TextTable, counted, fixed
from stmdeploy.schema.evaluation import Evaluation, Share95


def evaluation_table(found: Sequence[Evaluation]) -> TextTable:
    """One line per artifact: top-1 and top-5 in per cent, and agreement with fp32."""
    settings = varying(
        {
            "image": [f"{e.image_size[0]}x{e.image_size[1]}" for e in found],
            "weights": [e.weights for e in found],
            "data": [e.data for e in found],
        }
    )
    headers = (
        "model", "precision", "runtime", *settings, "images", "measured top-1 %", "95 % interval",
        "measured top-5 %", "agrees with fp32 %", "fp32 top-1 %",
    )  # fmt: skip
    cells = tuple(
        (
            e.model,
            e.precision,
            e.runtime,
            *(column[i] for column in settings.values()),
            str(e.images),
            _percent(e.top1),
            f"{e.top1.low:.2f} .. {e.top1.high:.2f}",
            _percent(e.top5),
            _percent(e.agreement),
            _percent(e.reference_top1),
        )
        for i, e in enumerate(found)
    )
    return TextTable(
        headers,
        cells,
        left=3 + len(settings),
        notes=_notes(found),
        keys=3 + len(settings),
        drop_first=(
            "images", "fp32 top-1 %", "measured top-5 %", "agrees with fp32 %", "95 % interval",
        ),
    )  # fmt: skip


def _notes(found: Sequence[Evaluation]) -> tuple[str, ...]:
    data = dict.fromkeys(f"{e.data} ({e.data_sha256[:12]})" for e in found)
    skipped = [
        f"{e.model}, {e.precision}: {counted(e.skipped, 'unreadable image')} skipped: "
        f"{', '.join(e.skipped_files[:5])}{' ...' if e.skipped > 5 else ''}"
        for e in found
        if e.skipped
    ]
    return (
        f"Measured over {', '.join(data)}, scaled and cropped as for the published accuracies. "
        "Intervals are Wilson's: what another choice of images might give.",
        "Agreement: the share of images whose top-1 class is that of the fp32 artifact.",
        *skipped,
    )


def _percent(share: Share95 | None) -> str:
    return fixed(share.percent if share else None, 2)
