"""Some of the values of an output: a detector's map has millions."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Values of an image's output that are kept at most. Of a map with more, a fault of one pixel can
#: pass unseen; one of a window, a row or a channel cannot.
MOST_VALUES = 4096


def step_of(size: int, most: int = MOST_VALUES) -> int:
    """The step between the values that are kept of an output with `size` values for an image.

    It has no divisor in common with `size`, so that no column or channel of a map is passed over.
    """
    step = -(-size // most)
    while gcd(step, size) != 1:
        step += 1
    return step


def kept(output: npt.NDArray[np.floating], most: int = MOST_VALUES) -> npt.NDArray[np.float64]:
    """At most so many values of every image, evenly spaced: N x anything -> N x values."""
    import numpy as np

    flat = output.reshape(len(output), -1)
    return flat[:, :: step_of(flat.shape[1], most)].astype(np.float64)
