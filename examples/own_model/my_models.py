"""Models of one's own: a callable without arguments that gives a torch.nn.Module.

stmdeploy profile --model my_models:small --image-size 64
stmdeploy export --model my_models:with_two_outputs --output logits --image-size 64
stmdeploy profile --model my_models:small --image-size 64 --num-classes 100
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def small(num_classes: int = 10) -> nn.Module:
    """Images N 3 H W to logits; --num-classes is passed to whatever takes it."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 7, stride=4, padding=3),
        nn.GELU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


class TwoOutputs(nn.Module):
    """As models of other libraries do, it gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = small(64), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images N 3 H W to features N 64 and logits N 10."""
        features = self.features(images)
        return {"features": features, "logits": self.head(torch.relu(features))}


def with_two_outputs() -> nn.Module:
    """Which of them is meant is said by --output logits."""
    return TwoOutputs()
