"""Inputs made up for a file from outside, by what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stmdeploy.errors import StmdeployError
from stmdeploy.schema.manifest import TensorInfo
from stmdeploy.spec.model import BATCH

if TYPE_CHECKING:
    import numpy as np

    from stmdeploy.plugins.runner import Inputs


def random_inputs(
    declared: Sequence[TensorInfo], batch: int, random: np.random.Generator
) -> Inputs:
    """Values for every input: floats are standard normal; bytes of three dimensions and more are
    pixels, 0 to 255; other whole numbers, which may be indices, are 0 or 1.

    Args:
        declared: every dimension is known, but for `BATCH`.

    Raises:
        StmdeployError: values of a type that cannot be made up.
    """
    return tuple(_made_up(one, batch, random) for one in declared)


def _made_up(declared: TensorInfo, batch: int, random: np.random.Generator) -> Any:
    import numpy as np

    shape = tuple(batch if side == BATCH else int(side) for side in declared.shape)
    try:
        dtype = np.dtype(declared.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind == "f":
        return random.standard_normal(shape, dtype=np.float32).astype(dtype)
    if dtype.kind in "iub":
        pixels = dtype == np.uint8 and len(shape) > 2
        return random.integers(0, 256 if pixels else 2, shape).astype(dtype)
    raise StmdeployError(
        f"input {declared.name} takes {declared.dtype}, for which no values can be made up",
        "give a graph that takes numbers of NumPy's types",
    )


def batch_of(inputs: Sequence[TensorInfo]) -> int | None:
    """The images per inference that inputs are for; None for any number."""
    first = next((one.shape[0] for one in inputs if one.shape), 1)
    return None if any(BATCH in one.shape for one in inputs) else int(first)
