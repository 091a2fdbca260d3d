"""Accuracy as the authors published it: theirs, not measured here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Published figures of a backbone, per cent.

    Attributes:
        top1_percent: ImageNet-1k top-1 accuracy at 224 px.
        box_ap_percent: COCO box AP of Mask R-CNN, 1x schedule, over its detection form.
        mask_ap_percent: COCO mask AP of the same detector.
    """

    top1_percent: float
    box_ap_percent: float
    mask_ap_percent: float
