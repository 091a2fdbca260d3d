"""The outcome of a race: who won, who is as good, and why each other was dropped."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stmdeploy.schema.document import (
    Amount,
    Count,
    Document,
    Ms,
    MsEnd,
    Number,
    Percent,
    PlainText,
    Side,
)
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.mixed import Kept, RatioTo

State = Literal["best", "as good", "worse", "over a limit", "failed"]
#: Share of a second: probabilities.
_Probability = Annotated[float, Field(gt=0, lt=1)]


class LimitTest(Document):
    """What an artifact of low precision keeps of the model in fp32, over images that set no scale
    and chose nothing."""

    images: Number = Field(description="Number of those images.")
    kept: Kept = Field(description="How much of the model it keeps.")
    level: _Probability = Field(description="Probability that one of its bounds is wrong.")
    error_bound: Amount | None = Field(description="Highest error; None if there is no bound.")
    agreement_bound_percent: Percent = Field(description="Least agreement, in per cent.")
    top1_drop_bound_percent: float | None = Field(
        description="Highest drop of top-1, in percentage points; None without labels."
    )
    holds: bool = Field(description="Whether all limits are kept by the bounds.")


class TunedCandidate(Document):
    """One way to run the model, and what became of it."""

    name: PlainText = Field(description="Name in this race.")
    state: State = Field(description="best, as good (not told apart), worse, over a limit, failed.")
    reason: PlainText = Field(description="Why it is not the best; empty for the best.")
    target: PlainText = Field(description="Target of the artifact, as --target takes it.")
    runtime: PlainText = Field(description="Runtime, as --runtime takes it.")
    precision: PlainText = Field(description="Precision of the artifact.")
    lowering: PlainText = Field(description="Form of the model.")
    batch: Number = Field(description="Images per inference.")
    threads: Number = Field(description="CPU threads of one operator.")
    in_flight: Number = Field(1, description="Requests that run at once.")
    settings: dict[PlainText, str | int | bool] = Field(
        description="Settings that differ from the runtime's usual ones, by their flags."
    )
    artifact: PlainText = Field("", description="Path of the artifact; empty if the export failed.")
    artifact_sha256: PlainText = Field("", description="SHA-256 of its main file.")
    relative_l2_error: Amount | None = Field(
        None, description="Error against float64 at its export; None if the export failed."
    )
    limits: LimitTest | None = Field(None, description="Test of the limits; None for fp32.")
    waves: Count = Field(0, description="Waves that it was in.")
    dropped_beyond: Amount | None = Field(
        None, description="It was dropped because it surely costs more than so many times the best."
    )
    latency_ms_p50: Ms | None = Field(None, description="Median over processes of medians, in ms.")
    latency_ms_p50_low: MsEnd | None = Field(None, description="Lower end of its 95 % interval.")
    latency_ms_p50_high: MsEnd | None = Field(None, description="Upper end of its 95 % interval.")
    throughput_images_s: Amount | None = Field(None, description="Images per second.")
    memory_peak_mib: Amount | None = Field(None, description="Peak host memory, in MiB.")
    energy_j_per_image: Amount | None = Field(None, description="Energy per image, in joules.")
    ratios: tuple[RatioTo, ...] = Field(
        (), description="Cost over that of the best, the usual and the reference, by turns."
    )


class Tuned(Document):
    """A race and its outcome. Cost is what the objective is about: less is better."""

    model: PlainText = Field(description="Name of the model.")
    weights: PlainText = Field(description="Origin of the weights: checkpoint, synthetic or own.")
    weights_sha256: PlainText = Field(description="SHA-256 of the content of the state_dict.")
    image_size: tuple[Side, Side] | None = Field(
        description="Height and width of the images, in pixels."
    )
    objective: PlainText = Field(description="latency, throughput, memory or energy.")
    max_error: Amount | None = Field(description="Highest relative L2 error allowed, or None.")
    min_agreement_percent: Percent | None = Field(description="Least agreement, or None.")
    max_top1_drop_percent: Percent | None = Field(description="Highest drop of top-1, or None.")
    max_memory_mib: Number | None = Field(description="Most memory allowed in MiB, or None.")
    data: PlainText = Field(description="Name of the folder of images; random for noise.")
    best: PlainText = Field(description="Name of the winner.")
    usual: PlainText = Field(description="Name of what `profile` runs unless told otherwise.")
    reference: PlainText = Field(
        description="Name of the model as it is in ONNX Runtime, not lowered; empty if not run."
    )
    runner_up: PlainText = Field(description="Name of the next best; empty if there is none.")
    error: _Probability = Field(description="Probability that the race lost the best.")
    within_percent: Percent | None = Field(
        description="The winner is surely no worse than the best by more; None if not known."
    )
    ended_by: PlainText = Field(description="What ended the race.")
    waves: Count = Field(description="Waves that were run.")
    measured_s: Amount = Field(description="Time of all waves, in seconds.")
    exported_s: Amount = Field(description="Time of exports and limit tests, in seconds.")
    started_utc: PlainText = Field(description="Time of the start, UTC, ISO 8601.")
    stmdeploy_version: PlainText = Field(description="Version of stmdeploy.")
    environment: Environment = Field(description="Machine and software that measured.")
    candidates: tuple[TunedCandidate, ...] = Field(min_length=1, description="The best first.")

    def named(self, name: str) -> TunedCandidate:
        """The candidate of that name."""
        return next(one for one in self.candidates if one.name == name)
