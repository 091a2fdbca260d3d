"""Weights for a backbone that has no checkpoint, made from a seed and the parameter names.

Initial training weights are useless for checking an export: layer scales of 1e-6 hide the
mixer behind the residual path, and a wrong mixer would pass. These weights keep signals near
order one through every block, do not depend on the order in which modules are built, and are the
same on every machine.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


def synthetic_value(key: str, shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.generic]:
    """The value of one state_dict entry: float32 (int64 zeros for ``num_batches_tracked``).

    NumPy's legacy generator is seeded by the CRC-32 of ``<seed>:<key>``; its stream is
    frozen by NumPy's compatibility policy.
    """
    random = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode()))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    z = random.standard_normal(shape).astype(np.float32)
    if "gamma" in leaf:
        return 0.5 + 0.1 * z
    if leaf == "running_var":
        return 1.0 + 0.1 * np.abs(z)
    if leaf in ("running_mean", "bias"):
        return 0.1 * z
    if leaf == "weight":
        fan_in = int(np.prod(shape[1:]))
        return 1.0 + 0.1 * z if len(shape) == 1 else z / np.float32(np.sqrt(fan_in))
    return 0.2 * z


@torch.no_grad()
def fill_synthetic(module: nn.Module, seed: int = 0) -> None:
    """Overwrites every parameter and persistent buffer of `module` with synthetic values."""
    for key, tensor in module.state_dict().items():
        value = synthetic_value(key, tuple(tensor.shape), seed)
        tensor.copy_(torch.from_numpy(np.asarray(value)))
