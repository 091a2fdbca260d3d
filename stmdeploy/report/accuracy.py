"""Measured accuracies as a table, the published ones beside them."""

from __future__ import annotations

from collections.abc import Sequence

from stmdeploy.report.tables import ABSENT, TextTable
from stmdeploy.results.row import Evaluation, Share95


def evaluation_table(found: Sequence[Evaluation]) -> TextTable:
    """One line an artifact."""
    settings = _varying(found)
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
            f"{e.top1.percent:.2f}",
            f"{e.top1.low:.2f} .. {e.top1.high:.2f}",
            f"{e.top5.percent:.2f}",
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
        f"{e.model}, {e.precision}: {e.skipped} images could not be read and were skipped: "
        f"{', '.join(e.skipped_files[:5])}{' ...' if e.skipped > 5 else ''}"
        for e in found
        if e.skipped
    ]
    return (
        f"Measured over {', '.join(data)}, transformed as published. Intervals are Wilson's, of "
        "the images alone.",
        "Agreement: images whose first class is that of the artifact in fp32.",
        *skipped,
    )


def _varying(found: Sequence[Evaluation]) -> dict[str, list[str]]:
    """What else tells rows apart, where it is not the same in all of them."""
    columns = {
        "image": [f"{e.image_size[0]}x{e.image_size[1]}" for e in found],
        "weights": [e.weights for e in found],
        "data": [e.data for e in found],
    }
    return {name: cells for name, cells in columns.items() if len(set(cells)) > 1}


def _percent(share: Share95 | None) -> str:
    return ABSENT if share is None else f"{share.percent:.2f}"
