"""Verifies that an artifact computes what its module does: against float64, on fresh inputs.

`fidelity` measures how much of that a low precision keeps, over images.
"""

from __future__ import annotations

import copy
import hashlib
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.artifacts.calibration import ExportImages
from stmdeploy.artifacts.probe import (
    IMAGES,
    Found,
    NotFiniteError,
    Probe,
    differs,
    further_images,
    known,
    probe_images,
)
from stmdeploy.errors import StmdeployError
from stmdeploy.measure.outputs import kept
from stmdeploy.plugins.exporter import DraftLoader, Exporter
from stmdeploy.plugins.runner import ModuleFactory, Runner
from stmdeploy.schema.manifest import Draft, Fidelity, KnownOutputs, Verification
from stmdeploy.spec.model import SizeRange
from stmdeploy.spec.run import RunSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    Images = npt.NDArray[np.float32]
    Outputs = tuple[npt.NDArray[np.float64], ...]

#: Batches that are compared; no exporter has seen 3, so a frozen batch shows.
BATCHES = (1, 3)
#: Says, for these images, where outputs that are not finite come from; empty if it cannot tell.
Explain = Callable[["Images"], str]
#: Images that are run at once, and of large ones so many pixels: float64 takes much memory.
_IMAGES_AT_ONCE, _PIXELS_AT_ONCE = 4, 4 * 224 * 224
#: Values of an image's output, evenly spaced, that fidelity compares; all, unless it is a map.
_COMPARED_VALUES = 2**16
_NOTHING_WRITTEN = "no artifact was written"


class Reference:
    """A module in float64, whose outputs are right by definition; computed once for equal images.

    Args:
        module: float32, in eval mode; it is copied, not changed.
        names: of its outputs.
        image_size: (height, width) in pixels.

    Raises:
        StmdeployError: the module cannot be copied in float64.
    """

    def __init__(
        self, module: nn.Module, names: Sequence[str], image_size: tuple[int, int]
    ) -> None:
        self._module, self._names, self._size = _in_float64(module), names, image_size
        self._answers: dict[bytes, Outputs] = {}

    def outputs(self, images: Images) -> Outputs:
        """The outputs of images N 3 H W in float64, as `compared` keeps them.

        Raises:
            StmdeployError: the module does not run in float64.
        """
        import numpy as np

        key = hashlib.sha256(images.tobytes()).digest()
        if key not in self._answers:
            step = images_at_once(self._size)
            parts = [images[i : i + step] for i in range(0, len(images), step)]
            answers = [compared(self._answer(part)) for part in parts]
            self._answers[key] = tuple(np.concatenate(one) for one in zip(*answers, strict=True))
        return self._answers[key]

    @cached_property
    def known(self) -> KnownOutputs:
        """The module's outputs for three fresh images, each on its own.

        Raises:
            StmdeployError: the module does not run in float64; its outputs are zero or not finite;
                or (exit code 4) it mixes the images of a batch itself.
        """
        import numpy as np

        seed = secrets.randbits(32)
        images = probe_images(seed, self._size)
        each = [self._answer(image[None]) for image in images]
        alone = tuple(np.concatenate(one) for one in zip(*each, strict=True))
        for one in alone:
            lengths = np.linalg.norm(one.reshape(len(one), -1), axis=1)
            if not (np.isfinite(lengths).all() and (lengths > 0).all()):
                raise StmdeployError(
                    "the model's own outputs in float64 are all zero or not finite",
                    "check its weights: there is nothing to compare an artifact with",
                )
        # All at once, or of large images two: float64 takes much memory.
        together = self._answer(images[: max(2, images_at_once(self._size))])
        for one, other in zip(alone, together, strict=True):
            one = one[: len(together[0])]
            if one.shape != other.shape or not np.allclose(other, one, rtol=1e-6, atol=1e-9):
                raise differs(
                    "the model itself mixes the images of a batch: each alone has other outputs",
                    _NOTHING_WRITTEN,
                )
        further = further_images(min(one[0].size for one in alone))
        if further:
            more = self.outputs(probe_images(seed, self._size, IMAGES + further)[IMAGES:])
            alone = tuple(
                np.concatenate((one.reshape(len(one), -1), other))
                for one, other in zip(alone, more, strict=True)
            )
        return known(seed, dict(zip(self._names, alone, strict=True)))

    def _answer(self, images: Images) -> Outputs:
        found = _reference_outputs(self._module, images)
        if len(found) != len(self._names):
            raise StmdeployError(
                f"the model gives {len(found)} outputs, not {len(self._names)}", "wrap it to do so"
            )
        return found


def images_at_once(image_size: tuple[int, int]) -> int:
    """How many images of a size are run in one batch where their number is free."""
    return max(1, min(_IMAGES_AT_ONCE, _PIXELS_AT_ONCE // math.prod(image_size)))


def compared(outputs: Sequence[npt.NDArray[np.floating]]) -> Outputs:
    """The values that `fidelity` compares: N x anything of each output -> N x values, float64."""
    return tuple(kept(one, _COMPARED_VALUES) for one in outputs)


def verify(
    load: Callable[[int], Runner],
    outputs: KnownOutputs,
    image_size: tuple[int, int],
    precision: str,
    tolerance_relative_l2: float | None,
    explain: Explain,
    batches: tuple[int, ...] = BATCHES,
) -> Verification:
    """Runs an artifact at some batches and compares every row with the module in float64.

    Args:
        load: gives a runner for a batch.
        outputs: the module's outputs, as `Reference.known` gives them.
        image_size: (height, width) in pixels.
        precision: that of the artifact.
        tolerance_relative_l2: bound on a row's relative L2 error; None only reports it.
        explain: asked where outputs that are not finite come from.
        batches: the batches to run, in images per inference.

    Raises:
        StmdeployError: (exit code 4) outputs that differ beyond the tolerance, are not finite,
            have another shape, or depend on the other images of the batch.
    """
    probe = Probe(outputs, image_size, precision, tolerance_relative_l2)
    found = [_at_batch(_loaded(load, batch), probe, batch, explain) for batch in batches]
    return Verification(
        runtime=found[-1].runtime,
        batches=batches,
        input_seed=outputs.seed,
        relative_l2_error=max(max(one.errors.values()) for one in found),
        relative_l2_errors={
            name: max(one.errors[name] for one in found) for name in found[-1].errors
        },
        worst_difference=max(one.worst_difference for one in found),
        row_dependence=max(one.row_dependence for one in found),
        tolerance_relative_l2=tolerance_relative_l2,
        outputs=outputs,
    )


def further_sizes(sizes: SizeRange) -> tuple[tuple[int, int], ...]:
    """Image sizes that a file of dynamic size is verified at beside its best: the least; a square
    that windows of 7 divide at every stage; and one that is not square, which none divides."""
    wanted = (sizes.least, (224, 224), (256, 352))
    return tuple(size for size in dict.fromkeys(wanted) if size != sizes.best)


def draft_runner(
    exporter: Exporter, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory
) -> Runner:
    """A runner that verifies a draft: by `DraftLoader.load_draft` if there is one, or by `load`."""
    if isinstance(exporter, DraftLoader):
        return exporter.load_draft(path, draft, run, build)
    return exporter.load(path, run, build)


def verified_batches(draft: Draft) -> tuple[int, ...]:
    """The batches to verify at: those of every artifact, and the ends of an engine's range.

    Only an engine is bound to its range; the graph that stands in for one runs at any batch.
    """
    if draft.engine is None:
        return BATCHES
    least, _, most = draft.engine.batch
    inside = BATCHES if draft.not_run else [min(max(batch, least), most) for batch in BATCHES]
    return tuple(sorted({*inside, least, most}))


def _at_batch(runner: Runner, probe: Probe, batch: int, explain: Explain) -> Found:
    images = probe.batch(batch)
    try:
        with _running(batch):
            runner.prepare(images)
            return probe.look(runner, images)
    except NotFiniteError as error:
        cause = _explained(explain, images)
        raise differs(f"{error.message}{cause and ': '}{cause}", _NOTHING_WRITTEN) from error
    except StmdeployError as error:
        error.hint = _NOTHING_WRITTEN
        raise


def fidelity(
    load: Callable[[int], Runner],
    reference: Reference,
    judged_by: ExportImages,
    explain: Explain,
    batch: int,
) -> Fidelity:
    """Compares an artifact with the module in float64 over images.

    Args:
        load, explain: as for `verify`.
        reference: the module in float64.
        judged_by: has the images that judge.
        batch: images per inference; the last image is repeated to fill it.

    Raises:
        StmdeployError: (exit code 4) outputs that are not finite or have another shape.
    """
    import numpy as np

    images = judged_by.judging
    assert images is not None
    right, runner = reference.outputs(images), _loaded(load, batch)
    got: list[Outputs] = []
    for start in range(0, len(images), batch):
        some = images[start : start + batch]
        filled = np.concatenate((some, np.repeat(some[-1:], batch - len(some), axis=0)))
        answered = _artifact_outputs(runner, filled, explain)
        got.append(compared([one[: len(some)] for one in answered]))
    errors = []
    for expected, answers in zip(right, zip(*got, strict=True), strict=True):
        mine = np.concatenate(answers)
        if mine.shape != expected.shape:
            told = f"outputs have shape {mine.shape}, not {expected.shape}"
            raise differs(told, _NOTHING_WRITTEN)
        errors.append(float(np.linalg.norm(mine - expected) / np.linalg.norm(expected)))
    agreed = None
    if len(right) == 1:
        first = np.concatenate([one for (one,) in got]).argmax(axis=1)
        agreed = 100 * float((right[0].argmax(axis=1) == first).mean())
    return Fidelity(
        source=judged_by.source,
        images=len(images),
        relative_l2_error=max(errors),
        top1_agreement_percent=agreed,
    )


def _loaded(load: Callable[[int], Runner], batch: int) -> Runner:
    with _running(batch):
        return load(batch)


@contextmanager
def _running(batch: int) -> Iterator[None]:
    """Turns whatever an engine raises, each of its own types, into an error of exit code 4."""
    try:
        yield
    except StmdeployError:
        raise
    except Exception as error:
        told = f"the artifact does not run at batch {batch}: {error}"
        raise differs(told, _NOTHING_WRITTEN) from error


def _artifact_outputs(runner: Runner, images: Images, explain: Explain) -> tuple[Images, ...]:
    """The artifact's outputs; raises StmdeployError (exit code 4) unless all are finite."""
    import numpy as np

    with _running(len(images)):
        runner.prepare(images)
        runner.run()
        outputs = runner.outputs()
    if not all(np.isfinite(one).all() for one in outputs):
        cause = _explained(explain, images)
        raise differs(
            f"outputs are not finite at batch {len(images)}{cause and ': '}{cause}",
            _NOTHING_WRITTEN,
        )
    return outputs


def _explained(explain: Explain, images: Images) -> str:
    """What `explain` says, or nothing if it fails: the outputs matter more than their cause."""
    try:
        return explain(images)
    except Exception:  # noqa: BLE001  (every engine has exceptions of its own)
        return ""


def _in_float64(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).double()
    except Exception as error:  # a user's module may hold anything
        raise StmdeployError(
            f"the model cannot be copied in float64: {error}",
            "make it a module that copy.deepcopy and .double() work on",
        ) from error


def _reference_outputs(reference: nn.Module, images: Images) -> Outputs:
    import torch

    try:
        with torch.inference_mode():
            given = reference(torch.from_numpy(images).double())
            maps = given if isinstance(given, list | tuple) else (given,)
            return tuple(one.numpy() for one in maps)
    except Exception as error:  # a user's module may raise anything
        raise StmdeployError(
            f"the model does not run in float64: {error}",
            "hold tensors as parameters or buffers, so that they are cast with the module",
        ) from error
