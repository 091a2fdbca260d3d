"""Accuracy: as the authors published it, and as it was measured over labelled images."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from stmdeploy.schema.document import Count, Document, Number, Percent, PlainText, Side
from stmdeploy.schema.hardware import Environment


@dataclass(frozen=True)
class Published:
    """Figures that the authors of a backbone published, in per cent.

    Attributes:
        top1_percent: ImageNet-1k top-1 accuracy of the classification backbone at 224 px.
        box_ap_percent: COCO box AP of Mask R-CNN (1x schedule) with the detection backbone.
        mask_ap_percent: COCO mask AP of the same detector.
    """

    top1_percent: float
    box_ap_percent: float
    mask_ap_percent: float


class Share95(Document):
    """A share in per cent, with its 95 % interval."""

    percent: Percent = Field(description="Share, in per cent.")
    low: Percent = Field(description="Lower end of the 95 % interval (Wilson), in per cent.")
    high: Percent = Field(description="Upper end of the 95 % interval (Wilson), in per cent.")


class OverImages(Document):
    """What was measured of one artifact over images, and where."""

    artifact_sha256: PlainText = Field(description="SHA-256 of the artifact's main file.")
    model: PlainText = Field(description="Name of the model.")
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
    waiting_percent: Percent | None = Field(
        None,
        description="Share of the time for which the runtime waited for images, in per cent; None "
        "if it was not measured.",
    )
    created_utc: PlainText = Field(description="Time of the end of the evaluation, UTC, ISO 8601.")
    environment: Environment = Field(description="Machine and software that ran the artifact.")


class Evaluation(OverImages):
    """Accuracy of one artifact, as measured over labelled images."""

    skipped_files: tuple[str, ...] = Field(description="Paths of the first 100 skipped images.")
    top1: Share95 = Field(description="Share of images whose label has the highest logit.")
    top5: Share95 = Field(description="Share of images whose label is among the 5 highest logits.")
    reference: str | None = Field(description="File name of the fp32 reference; None without one.")
    agreement: Share95 | None = Field(
        description="Share of images that the reference puts in the same class; None without one."
    )
    reference_top1: Share95 | None = Field(description="Reference's own top-1; None without one.")
