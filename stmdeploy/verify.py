"""Is the artifact the same function as the module? Compared with float64, on fresh inputs."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from stmdeploy.contracts import Runner, Verification
from stmdeploy.errors import ExitCode, StmdeployError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    Images = npt.NDArray[np.float32]
    Logits = npt.NDArray[np.float64]

#: Batches that are compared; 3 was never seen by an exporter, so a frozen batch shows.
BATCHES = (1, 3)


def verify(
    load: Callable[[int], Runner],
    module: nn.Module,
    image_size: tuple[int, int],
    tolerance_relative_l2: float,
) -> Verification:
    """Runs an artifact at batches 1 and 3 and compares it with the module in float64.

    Args:
        load: gives a runner for a batch.
        module: the reference, float32, in eval mode; left as it is.
        image_size: (height, width) in pixels.
        tolerance_relative_l2: bound on ||y - r|| / ||r||.

    Raises:
        StmdeployError: (exit code 4) outputs that differ beyond the tolerance, are not
            finite or have another shape.
    """
    import numpy as np

    seed = secrets.randbits(32)
    random = np.random.default_rng(seed)
    reference = _in_float64(module)
    relative, worst, runtime = 0.0, 0.0, ""
    for batch in BATCHES:
        images = random.standard_normal((batch, 3, *image_size), dtype=np.float32)
        expected = _reference_logits(reference, images)
        got, runtime = _artifact_logits(load, images)
        distance, difference = _distance(got, expected)
        relative, worst = max(relative, distance), max(worst, difference)
    if relative > tolerance_relative_l2:
        raise _differs(
            f"outputs differ from PyTorch float64 by {relative:.1e} relative L2, "
            f"allowed {tolerance_relative_l2:.0e} (input seed {seed})"
        )
    return Verification(
        runtime=runtime,
        batches=BATCHES,
        input_seed=seed,
        relative_l2_error=relative,
        worst_logit_difference=worst,
        tolerance_relative_l2=tolerance_relative_l2,
    )


def _artifact_logits(load: Callable[[int], Runner], images: Images) -> tuple[Logits, str]:
    """The artifact's outputs, and the runtime that gave them."""
    batch = images.shape[0]
    try:
        runner = load(batch)
        runner.prepare(images)
        runner.run()
    except StmdeployError:
        raise
    except Exception as error:  # every engine has exceptions of its own
        raise _differs(f"the artifact does not run at batch {batch}: {error}") from error
    facts = runner.facts()
    return runner.output().astype("float64"), _name(facts)


def _name(facts: dict[str, str]) -> str:
    return f"{facts['runtime']} {facts['version']} ({facts['provider']})"


def _distance(got: Logits, expected: Logits) -> tuple[float, float]:
    """Relative L2 distance and the largest difference of a logit, both finite."""
    import numpy as np

    batch = len(expected)
    if got.shape != expected.shape:
        raise _differs(f"outputs have shape {got.shape}, not {expected.shape}, at batch {batch}")
    if not np.isfinite(got).all():
        raise _differs(f"outputs are not finite at batch {batch}")
    length = float(np.linalg.norm(expected))
    if not (np.isfinite(length) and length > 0):
        raise StmdeployError(
            "the model's own outputs in float64 are all zero or not finite",
            "there is nothing to compare an artifact with; check the weights",
        )
    difference = got - expected
    return float(np.linalg.norm(difference)) / length, float(np.abs(difference).max())


def _in_float64(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).double()
    except Exception as error:  # a user's module may hold anything
        raise StmdeployError(
            f"the model cannot be copied in float64: {error}", "verification needs a plain module"
        ) from error


def _reference_logits(reference: nn.Module, images: Images) -> Logits:
    import torch

    try:
        with torch.inference_mode():
            logits: Logits = reference(torch.from_numpy(images).double()).numpy()
    except Exception as error:  # a user's module may raise anything
        raise StmdeployError(
            f"the model does not run in float64: {error}",
            "hold tensors as parameters or buffers, so that they are cast with the module",
        ) from error
    return logits


def _differs(message: str) -> StmdeployError:
    return StmdeployError(message, "no artifact was written", ExitCode.OUTPUTS_DIFFER)
