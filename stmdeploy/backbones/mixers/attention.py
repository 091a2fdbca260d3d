"""What the mixers that attend share: the formula written out, or PyTorch's fused kernels."""

from __future__ import annotations

from torch import nn


class Attention(nn.Module):
    """A mixer that attends.

    Attributes:
        fused: whether `torch.nn.functional.scaled_dot_product_attention` attends, in whichever of
            its kernels takes the inputs: on a GPU those write no logits. Written out, a module is
            exported and counted operator by operator, so that is what one begins with.
    """

    fused = False


def fuse_attention(module: nn.Module) -> int:
    """Lets the mixers of a module attend by fused kernels; says how many there are."""
    mixers = [part for part in module.modules() if isinstance(part, Attention)]
    for mixer in mixers:
        mixer.fused = True
    return len(mixers)
