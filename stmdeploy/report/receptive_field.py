"""Receptive fields as a table."""

from __future__ import annotations

from collections.abc import Sequence

from stmdeploy.report.profile_table import varying
from stmdeploy.report.text_table import TextTable, fixed
from stmdeploy.schema.receptive_field import ReceptiveField


def receptive_field_table(found: Sequence[ReceptiveField]) -> TextTable:
    """A line for every model and stage: sides of squares, in pixels."""
    settings = varying(
        {
            "image": [f"{f.image_size[0]}x{f.image_size[1]}" for f in found],
            "task": [f.task for f in found],
            "weights": [f.weights for f in found],
            "data": [f.data for f in found],
        }
    )
    shares = tuple(found[0].stages[0].sides_px)
    headers = ("model", *settings, "stage", "stride px", *(f"{share} % px" for share in shares))
    cells = tuple(
        (
            one.model,
            *(column[i] for column in settings.values()),
            str(stage.stage),
            str(stage.stride),
            *(fixed(stage.sides_px.get(share), 0) for share in shares),
        )
        for i, one in enumerate(found)
        for stage in one.stages
    )
    first = found[0]
    return TextTable(
        headers,
        cells,
        left=1 + len(settings),
        keys=2 + len(settings),
        notes=(
            f"Side of the smallest square around the centre of a stage's map that holds so much of "
            f"what the image contributes to it: the {first.contribution} gradient, over "
            f"{first.images} images ({first.data}).",
        ),
    )
