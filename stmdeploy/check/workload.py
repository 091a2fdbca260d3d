"""The calibration workload: a small network that is measured beside a model, then and now.

If the machine has become slower or faster in between, it has for both. The network does what the
backbones do: convolutions, dense and depth-wise, matrix products and GELU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WIDTH, _BLOCKS = 96, 3


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(_WIDTH, _WIDTH, 5, padding=2, groups=_WIDTH)
        self.first = nn.Linear(_WIDTH, 4 * _WIDTH)
        self.last = nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.depthwise(x).permute(0, 2, 3, 1)
        mixed = self.last(nn.functional.gelu(self.first(tokens)))
        return x + torch.as_tensor(mixed).permute(0, 3, 1, 2)


def network() -> nn.Module:
    """The workload, from images N 3 224 224 to logits (N, 10); its weights are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, _WIDTH, 8, 8),
            *(_Block() for _ in range(_BLOCKS)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(_WIDTH, 10),
        ).eval()
