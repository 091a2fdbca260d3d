"""How little an artifact minds that a photograph is moved, turned, nearer or farther."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stmdeploy.schema.document import Count, Document, Number, Percent, PlainText, Side
from stmdeploy.schema.hardware import Environment

_Finite = Annotated[float, Field(ge=-1e30, le=1e30)]


class Estimate(Document):
    """A mean over images, with its 95 % interval."""

    value: _Finite = Field(description="Mean over the images.")
    low: _Finite = Field(description="Lower end of the 95 % interval (bootstrap over images).")
    high: _Finite = Field(description="Upper end of the 95 % interval (bootstrap over images).")


class Level(Document):
    """One level of a transform."""

    level: _Finite = Field(description="Level, in the curve's unit.")
    consistency: Estimate = Field(
        description="Share of images with the top-1 class of their standard view, in per cent."
    )
    cross_entropy: Estimate = Field(
        description="Cross-entropy of the logits against the standard view's softmax, in nats."
    )
    top1: Estimate | None = Field(description="Top-1 accuracy, in per cent; None without labels.")
    top5: Estimate | None = Field(description="Top-5 accuracy, in per cent; None without labels.")


class Curve(Document):
    """All levels of one transform."""

    transform: PlainText = Field(description="Transform: translation, rotation, ... or scale.")
    unit: PlainText = Field(description="Unit of its levels.")
    area: Estimate = Field(
        description="Area under the curve of consistency: its mean over the levels, in per cent."
    )
    area_more_than_fp32: Estimate | None = Field(
        description="The same less that of the fp32 artifact, over the same images; None if that "
        "was not measured."
    )
    levels: tuple[Level, ...] = Field(min_length=2, description="Levels, growing.")


class Invariance(Document):
    """Invariance of one artifact, as measured over images."""

    artifact_sha256: PlainText = Field(description="SHA-256 of the artifact's main file.")
    model: PlainText = Field(description="Name of the model.")
    stm: PlainText = Field(description="Spatial token mixer; custom for a user's own model.")
    scale: PlainText = Field(description="Scale, such as tiny; empty for a user's own model.")
    weights: PlainText = Field(description="Origin of the weights: checkpoint, synthetic or own.")
    weights_sha256: PlainText = Field(description="SHA-256 of the content of the state_dict.")
    image_size: tuple[Side, Side] = Field(description="Height and width of the images, in pixels.")
    precision: PlainText = Field(description="Precision of the artifact, such as fp32 or int8.")
    runtime: PlainText = Field(description="Runtime that ran the artifact, such as onnxruntime.")
    runtime_version: PlainText = Field(description="Version of the runtime; empty if unknown.")
    provider: PlainText = Field(description="Provider that the runtime reports; empty if none.")
    data: PlainText = Field(description="Name of the folder of images, without its path.")
    data_sha256: PlainText = Field(description="SHA-256 of the images' names, sizes and classes.")
    images: Number = Field(description="Images that were read and classified.")
    skipped: Count = Field(description="Images that could not be read.")
    protocol: PlainText = Field(description="Protocol: clean, or authors for that of the paper.")
    seed: Count = Field(description="Seed of the directions that content moves in.")
    consistency: Estimate = Field(
        description="Mean of the areas under the curves of consistency, in per cent."
    )
    consistency_more_than_fp32: Estimate | None = Field(
        description="The same less that of the fp32 artifact; None if that was not measured."
    )
    curves: tuple[Curve, ...] = Field(min_length=1, description="Curves, one for each transform.")
    waiting_percent: Percent = Field(
        description="Share of the time for which the runtime waited for images, in per cent."
    )
    created_utc: PlainText = Field(description="Time of the end of the measurement, UTC, ISO 8601.")
    environment: Environment = Field(description="Machine and software that ran the artifact.")

    @property
    def transforms(self) -> str:
        """The transforms as one word: figures over others are not comparable."""
        return ",".join(curve.transform for curve in self.curves)
