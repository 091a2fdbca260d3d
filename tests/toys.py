"""Small classifiers whose behaviour is known, for `--model tests.toys:NAME`."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 10


class Wrapped(nn.Module):
    """Convolutions of stride 4 around the edges, then the mean over all positions: moving content
    round by a multiple of 4 px changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 5, stride=4, padding=2, padding_mode="circular")
        self.second = nn.Conv2d(16, 32, 3, padding=1, padding_mode="circular")
        self.head = nn.Linear(32, CLASSES)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """N 3 H W -> N 32 H/4 W/4."""
        return torch.relu(self.second(torch.relu(self.first(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N 3 H W -> N 10."""
        logits: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


class Placed(Wrapped):
    """The same, but what stands where counts, as with absolute positions."""

    def __init__(self, side: int = 224) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 32, side // 4, side // 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N 3 224 224 -> N 10."""
        logits: torch.Tensor = self.head((self.features(x) * self.places).mean((2, 3)))
        return logits


def _steady(kind: type[Wrapped]) -> nn.Module:
    torch.manual_seed(0)
    module = kind()
    with torch.no_grad():  # so that answers differ from image to image
        module.head.bias.zero_()
        module.head.weight.mul_(30)
    return module


def wrapped() -> nn.Module:
    """The same weights every time."""
    return _steady(Wrapped)


def placed() -> nn.Module:
    """The same weights every time."""
    return _steady(Placed)
