"""What part of an image a stage of a network sees."""

from __future__ import annotations

from pydantic import Field

from stmdeploy.schema.document import Amount, Document, Number, PlainText, Sha256, Side


class StageField(Document):
    """The effective receptive field of one stage, at the centre of its map."""

    stage: Number = Field(description="Stage, from 1, as in the paper.")
    stride: Number = Field(description="Pixels of the image between two positions of the map.")
    sides_px: dict[PlainText, Amount] = Field(
        description="Side, in pixels, of the smallest square around the position that holds so "
        "many per cent of the contribution: 20, 30, 50, 99."
    )


class ReceptiveField(Document):
    """The effective receptive fields of a network's stages."""

    model: PlainText = Field(description="Name of the model.")
    stm: PlainText = Field(description="Spatial token mixer; custom for a user's own model.")
    scale: PlainText = Field(description="Scale, such as tiny; empty for a user's own model.")
    task: PlainText = Field(description="Task: classification or detection.")
    weights: PlainText = Field(description="Origin of the weights: checkpoint, synthetic or own.")
    weights_sha256: Sha256 = Field(description="SHA-256 of the content of the state_dict.")
    image_size: tuple[Side, Side] = Field(description="Height and width of the images, in pixels.")
    data: PlainText = Field(description="Name of the folder of images; random for noise.")
    images: Number = Field(description="Images averaged over.")
    contribution: PlainText = Field(
        description="What a pixel contributes: absolute or squared gradient, over its channels."
    )
    stages: tuple[StageField, ...] = Field(min_length=1, description="Stages, the first first.")
    created_utc: PlainText = Field(description="Time of the end of the measurement, UTC, ISO 8601.")
