"""How little an artifact minds that a photograph is moved, turned, nearer or farther."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stmdeploy.schema.document import Count, Document, PlainText
from stmdeploy.schema.evaluation import OverImages

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


class Invariance(OverImages):
    """Invariance of one artifact, as measured over images."""

    stm: PlainText = Field(description="Spatial token mixer; custom for a user's own model.")
    scale: PlainText = Field(description="Scale, such as tiny; empty for a user's own model.")
    protocol: PlainText = Field(description="Protocol: clean, or authors for that of the paper.")
    seed: Count = Field(description="Seed of the directions that content moves in.")
    consistency: Estimate = Field(
        description="Mean of the areas under the curves of consistency, in per cent."
    )
    consistency_more_than_fp32: Estimate | None = Field(
        description="The same less that of the fp32 artifact; None if that was not measured."
    )
    curves: tuple[Curve, ...] = Field(min_length=1, description="Curves, one for each transform.")

    @property
    def transforms(self) -> str:
        """The transforms as one word: figures over others are not comparable."""
        return ",".join(curve.transform for curve in self.curves)
