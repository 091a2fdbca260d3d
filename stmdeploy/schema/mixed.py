"""What a low precision costs which part of a model, and which parts are spared it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stmdeploy.schema.document import Amount, Count, Document, Number, Percent, PlainText, Side

_Points = Annotated[float, Field(ge=-100, le=100)]


class Kept(Document):
    """How much of the model in float32 a candidate keeps over images."""

    relative_l2_error: Amount | None = Field(
        description="||y - r|| / ||r|| of the logits of all images; None if they are not finite."
    )
    agreement_percent: Percent = Field(
        description="Share of images with the same top-1 class, in per cent."
    )
    top1_drop_percent: _Points | None = Field(
        description="How much lower top-1 is, in percentage points; None without labels."
    )


class PartCost(Document):
    """One part of a model in a low precision while the others are not."""

    part: PlainText = Field(description='Part of the model, such as "stage 2 mixer".')
    kept: Kept = Field(description="How much of the model is kept.")
    fp32_ms: Amount | None = Field(
        description="Its share of an inference in fp32, in ms; None if no profiler tells."
    )
    low_ms: Amount | None = Field(description="The same with everything in the low precision.")

    @property
    def saved_ms(self) -> float | None:
        """Time that the low precision saves, in ms; None if no profiler tells."""
        if self.fp32_ms is None or self.low_ms is None:
            return None
        return self.fp32_ms - self.low_ms


class Sensitivity(Document):
    """What a low precision costs every part of a model."""

    model: PlainText = Field(description="Name of the model.")
    weights: PlainText = Field(description="Origin of the weights: checkpoint, synthetic or own.")
    weights_sha256: PlainText = Field(description="SHA-256 of the content of the state_dict.")
    image_size: tuple[Side, Side] = Field(description="Height and width of the images, in pixels.")
    target: PlainText = Field(description="Target, as --target takes it.")
    precision: PlainText = Field(description="Low precision, such as int8.")
    lowering: PlainText = Field(description="Form of the model.")
    runtime: PlainText = Field(description="Runtime, and its version.")
    data: PlainText = Field(description="Name of the folder of images; random for noise.")
    calibrating: Count = Field(description="Images that set the scales; 0 where none do.")
    images: Number = Field(description="Other images, that the outputs were compared over.")
    together: Kept = Field(description="All parts in the low precision.")
    parts: tuple[PartCost, ...] = Field(min_length=1, description="Parts, one at a time.")


class Tried(Document):
    """A candidate that was tried."""

    kept_parts: tuple[PlainText, ...] = Field(description="Parts that stay as they are.")
    over: Literal["choosing", "held out"] = Field(
        description="Images it was tried over: those that choose, or those held out."
    )
    images: Number = Field(description="Number of those images.")
    kept: Kept = Field(description="How much of the model it keeps.")
    level: Amount = Field(description="Probability that a bound is wrong.")
    error_bound: Amount | None = Field(description="Highest error; None if there is no bound.")
    agreement_bound_percent: Percent = Field(description="Least agreement, in per cent.")
    top1_drop_bound_percent: _Points | None = Field(description="Highest drop; or None.")
    holds: bool = Field(description="Whether all limits are kept by the bounds.")


class RatioTo(Document):
    """Latency over that of another artifact, by turns, with its 95 % interval."""

    of: PlainText = Field(description="The other artifact.")
    ratio: Amount = Field(description="Latency over the other's.")
    low: Amount = Field(description="Lower end of the 95 % interval.")
    high: Amount = Field(description="Upper end of the 95 % interval.")


class Choice(Document):
    """How the precision of every part was chosen."""

    max_error: Amount | None = Field(description="Highest relative L2 error asked for, or None.")
    min_agreement_percent: Percent | None = Field(description="Least agreement asked, or None.")
    max_top1_drop_percent: Percent | None = Field(description="Highest drop asked for, or None.")
    seed: Count = Field(description="Seed that parted the images.")
    sensitivity: Sensitivity = Field(description="What the precision costs every part.")
    tried: tuple[Tried, ...] = Field(description="Candidates, in the order they were tried.")
    held: bool = Field(description="Whether a candidate of lower precision keeps the limits.")
    latency: tuple[RatioTo, ...] = Field(
        (), description="Latency of the choice over that of fp32 and of the low precision alone."
    )
    latency_batch: Number = Field(1, description="Images per inference of those.")
    latency_threads: Number = Field(1, description="Threads of one operator.")
    processor: PlainText = Field("", description="Processor or GPU they were measured on.")
    measured_utc: PlainText = Field("", description="Time of that, UTC, ISO 8601; empty if not.")
