"""What a block needs to know of its place in the network."""

from __future__ import annotations

from dataclasses import dataclass

#: Layer scales start here in training (a checkpoint overwrites them).
INITIAL_LAYER_SCALE = 1e-6


@dataclass(frozen=True)
class BlockGeometry:
    """The place of one block.

    Attributes:
        channels: C of the stage.
        heads: attention heads (dcn: groups); 0 where the mixer has none.
        mlp_ratio: hidden channels of the mlp over C.
        stage: 0 to 3.
        index: position of the block inside its stage.
        size: (height, width) of the stage map.
    """

    channels: int
    heads: int
    mlp_ratio: int
    stage: int
    index: int
    size: tuple[int, int]
