"""The neck that the published APs were obtained with: FPN (arXiv 1612.03144), 256 channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 256


class _Conv(nn.Module):
    """A convolution under the name `conv`, as in the detectors' checkpoints."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, CHANNELS, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class FeaturePyramid(nn.Module):
    """Maps at strides 4 to 32 -> five maps of 256 channels at strides 4 to 64."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_Conv(dim, 1) for dim in dims)
        self.fpn_convs = nn.ModuleList(_Conv(CHANNELS, 3) for _ in dims)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """maps: N dims[i] H/s W/s at strides s = 4, 8, 16, 32."""
        sums: list[Tensor] = []
        for conv, x in zip(reversed(self.lateral_convs), reversed(maps), strict=True):
            lateral = conv(x)
            if sums:
                lateral = lateral + F.interpolate(sums[-1], size=lateral.shape[2:], mode="nearest")
            sums.append(lateral)
        pyramid = [conv(x) for conv, x in zip(self.fpn_convs, reversed(sums), strict=True)]
        return [*pyramid, F.max_pool2d(pyramid[-1], 1, stride=2)]


class BackboneWithNeck(nn.Module):
    """A detection backbone and its neck; state_dict keys are those of the authors' detectors."""

    def __init__(self, backbone: nn.Module, neck: FeaturePyramid) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: N 3 H W -> five maps of 256 channels at strides 4 to 64."""
        y: list[Tensor] = self.neck(self.backbone(x))
        return y
