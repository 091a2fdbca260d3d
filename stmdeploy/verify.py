"""Is the artifact the same function as the module? Compared with float64, on fresh inputs.

And what a low precision keeps of it (`fidelity`), over images.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from stmdeploy.artifact import Fidelity, Verification
from stmdeploy.contracts import Runner
from stmdeploy.errors import ExitCode, StmdeployError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    Images = npt.NDArray[np.float32]
    Logits = npt.NDArray[np.float64]

#: Batches that are compared; 3 was never seen by an exporter, so a frozen batch shows.
BATCHES = (1, 3)
#: Says where outputs that are not finite come from; takes the images.
Explain = Callable[["Images"], str]


def verify(
    load: Callable[[int], Runner],
    module: nn.Module,
    image_size: tuple[int, int],
    tolerance_relative_l2: float | None,
    explain: Explain,
    batches: tuple[int, ...] = BATCHES,
) -> Verification:
    """Runs an artifact at some batches and compares it with the module in float64.

    Args:
        load: gives a runner for a batch.
        module: the reference, float32, in eval mode; left as it is.
        image_size: (height, width) in pixels.
        tolerance_relative_l2: bound on ||y - r|| / ||r||; None to report it only.
        explain: asked where outputs that are not finite come from.
        batches: images per inference.

    Raises:
        StmdeployError: (exit code 4) outputs that differ beyond the tolerance, are not
            finite or have another shape.
    """
    import numpy as np

    seed = secrets.randbits(32)
    random = np.random.default_rng(seed)
    reference = _in_float64(module)
    relative, worst, runtime = 0.0, 0.0, ""
    for batch in batches:
        images = random.standard_normal((batch, 3, *image_size), dtype=np.float32)
        expected = _reference_logits(reference, images)
        got, runtime = _artifact_logits(_loaded(load, batch), images, explain)
        distance, difference = _distance(got, expected)
        relative, worst = max(relative, distance), max(worst, difference)
    if tolerance_relative_l2 is not None and relative > tolerance_relative_l2:
        raise _differs(
            f"outputs differ from PyTorch float64 by {relative:.1e} relative L2, "
            f"allowed {tolerance_relative_l2:.0e} (input seed {seed})"
        )
    return Verification(
        runtime=runtime,
        batches=batches,
        input_seed=seed,
        relative_l2_error=relative,
        worst_logit_difference=worst,
        tolerance_relative_l2=tolerance_relative_l2,
    )


def verify_beside(
    load: Callable[[int], Runner],
    load_other: Callable[[int], Runner],
    image_size: tuple[int, int],
    tolerance_relative_l2: float | None,
    batches: tuple[int, ...],
) -> Verification:
    """As `verify`, but against another runner of the same function, ``load_other``.

    Raises:
        StmdeployError: (exit code 4) as `verify`.
    """
    import numpy as np

    def nothing(_: Images) -> str:
        return ""

    seed = secrets.randbits(32)
    random = np.random.default_rng(seed)
    relative, worst, names = 0.0, 0.0, ("", "")
    for batch in batches:
        images = random.standard_normal((batch, 3, *image_size), dtype=np.float32)
        expected, other = _artifact_logits(_loaded(load_other, batch), images, nothing)
        got, mine = _artifact_logits(_loaded(load, batch), images, nothing)
        distance, difference = _distance(got, expected)
        relative, worst, names = max(relative, distance), max(worst, difference), (mine, other)
    if tolerance_relative_l2 is not None and relative > tolerance_relative_l2:
        raise _differs(
            f"outputs on {names[0]} differ from those on {names[1]} by {relative:.1e} relative L2, "
            f"allowed {tolerance_relative_l2:.0e} (input seed {seed})"
        )
    return Verification(
        runtime=f"{names[0]}, against {names[1]}",
        batches=batches,
        input_seed=seed,
        relative_l2_error=relative,
        worst_logit_difference=worst,
        tolerance_relative_l2=tolerance_relative_l2,
    )


def fidelity(
    load: Callable[[int], Runner],
    module: nn.Module,
    images: Images,
    source: str,
    explain: Explain,
    batch: int,
) -> Fidelity:
    """Compares an artifact with the module in float64 over images.

    Args:
        load, explain: as of `verify`.
        module: the reference, float32, in eval mode; left as it is.
        images: N 3 H W.
        source: what the images are, for the manifest.
        batch: images per inference; the last ones are repeated to fill it.

    Raises:
        StmdeployError: (exit code 4) outputs that are not finite or have another shape.
    """
    import numpy as np

    reference, runner = _in_float64(module), _loaded(load, batch)
    expected, got = [], []
    for start in range(0, len(images), batch):
        some = images[start : start + batch]
        expected.append(_reference_logits(reference, some))
        filled = np.concatenate((some, np.repeat(some[-1:], batch - len(some), axis=0)))
        got.append(_artifact_logits(runner, filled, explain)[0][: len(some)])
    right, answered = np.concatenate(expected), np.concatenate(got)
    agreed = (right.argmax(axis=1) == answered.argmax(axis=1)).mean()
    return Fidelity(
        source=source,
        images=len(images),
        relative_l2_error=_distance(answered, right)[0],
        top1_agreement_percent=100 * float(agreed),
    )


def _loaded(load: Callable[[int], Runner], batch: int) -> Runner:
    try:
        return load(batch)
    except StmdeployError:
        raise
    except Exception as error:  # every engine has exceptions of its own
        raise _does_not_run(batch, error) from error


def _artifact_logits(runner: Runner, images: Images, explain: Explain) -> tuple[Logits, str]:
    """The artifact's outputs, all finite, and the runtime that gave them."""
    import numpy as np

    try:
        runner.prepare(images)
        runner.run()
        logits = runner.output().astype("float64")
    except StmdeployError:
        raise
    except Exception as error:  # every engine has exceptions of its own
        raise _does_not_run(len(images), error) from error
    if not np.isfinite(logits).all():
        cause = _explained(explain, images)
        raise _differs(f"outputs are not finite at batch {len(images)}{cause and ': '}{cause}")
    facts = runner.facts()
    return logits, f"{facts['runtime']} {facts['version']} ({facts['provider']})"


def _explained(explain: Explain, images: Images) -> str:
    """Where it comes from; an engine that cannot tell must not hide that it is so."""
    try:
        return explain(images)
    except Exception:  # noqa: BLE001  (every engine has exceptions of its own)
        return ""


def _does_not_run(batch: int, error: Exception) -> StmdeployError:
    return _differs(f"the artifact does not run at batch {batch}: {error}")


def _distance(got: Logits, expected: Logits) -> tuple[float, float]:
    """Relative L2 distance and the largest difference of a logit."""
    import numpy as np

    if got.shape != expected.shape:
        raise _differs(
            f"outputs have shape {got.shape}, not {expected.shape}, at batch {len(expected)}"
        )
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
