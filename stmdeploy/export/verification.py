"""Verifies that an artifact computes what its module does: against float64, on fresh inputs.

`fidelity` measures how much of that a low precision keeps, over images.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.errors import StmdeployError
from stmdeploy.export.calibration import ExportImages
from stmdeploy.export.probe import (
    IMAGES,
    Found,
    NotFiniteError,
    Probe,
    differs,
    further_images,
    known,
    probe_images,
)
from stmdeploy.plugins.exporter import DraftLoader, Exporter
from stmdeploy.plugins.runner import ModuleFactory, Runner
from stmdeploy.schema.manifest import Draft, Fidelity, KnownOutputs, Verification
from stmdeploy.spec.run import RunSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    Images = npt.NDArray[np.float32]
    Logits = npt.NDArray[np.float64]

#: Batches that are compared; no exporter has seen 3, so a frozen batch shows.
BATCHES = (1, 3)
#: Says, for these images, where outputs that are not finite come from; empty if it cannot tell.
Explain = Callable[["Images"], str]
#: Images that the reference is given at once: float64 takes much memory.
_AT_ONCE = 4
_NOTHING_WRITTEN = "no artifact was written"


class Reference:
    """A module in float64, whose outputs are right by definition; computed once for equal images.

    Args:
        module: float32, in eval mode; it is copied, not changed.
        image_size: (height, width) in pixels.

    Raises:
        StmdeployError: the module cannot be copied in float64.
    """

    def __init__(self, module: nn.Module, image_size: tuple[int, int]) -> None:
        self._module, self._size = _in_float64(module), image_size
        self._answers: dict[bytes, Logits] = {}

    def logits(self, images: Images) -> Logits:
        """The logits of images N 3 H W, in float64.

        Raises:
            StmdeployError: the module does not run in float64.
        """
        import numpy as np

        key = hashlib.sha256(images.tobytes()).digest()
        if key not in self._answers:
            parts = [images[i : i + _AT_ONCE] for i in range(0, len(images), _AT_ONCE)]
            answers = [_reference_logits(self._module, part) for part in parts]
            self._answers[key] = np.concatenate(answers)
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
        alone = np.concatenate([_reference_logits(self._module, image[None]) for image in images])
        flat = alone.reshape(len(alone), -1)
        lengths = np.linalg.norm(flat, axis=1)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise StmdeployError(
                "the model's own outputs in float64 are all zero or not finite",
                "check its weights: there is nothing to compare an artifact with",
            )
        together = _reference_logits(self._module, images)
        if together.shape != alone.shape or not np.allclose(together, alone, rtol=1e-6, atol=1e-9):
            raise differs(
                "the model itself mixes the images of a batch: each alone has other outputs",
                _NOTHING_WRITTEN,
            )
        further = further_images(flat.shape[1])
        more = probe_images(seed, self._size, IMAGES + further)[IMAGES:]
        return known(seed, np.concatenate((alone, self.logits(more))) if further else alone)


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
        relative_l2_error=max(one.relative_l2_error for one in found),
        worst_logit_difference=max(one.worst_difference for one in found),
        row_dependence=max(one.row_dependence for one in found),
        tolerance_relative_l2=tolerance_relative_l2,
        outputs=outputs,
    )


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
    right, runner, got = reference.logits(images), _loaded(load, batch), []
    for start in range(0, len(images), batch):
        some = images[start : start + batch]
        filled = np.concatenate((some, np.repeat(some[-1:], batch - len(some), axis=0)))
        got.append(_artifact_logits(runner, filled, explain)[: len(some)])
    answered = np.concatenate(got)
    if right.shape != answered.shape:
        raise differs(f"outputs have shape {answered.shape}, not {right.shape}", _NOTHING_WRITTEN)
    agreed = (right.argmax(axis=1) == answered.argmax(axis=1)).mean()
    return Fidelity(
        source=judged_by.source,
        images=len(images),
        relative_l2_error=float(np.linalg.norm(answered - right) / np.linalg.norm(right)),
        top1_agreement_percent=100 * float(agreed),
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


def _artifact_logits(runner: Runner, images: Images, explain: Explain) -> Logits:
    """The artifact's outputs; raises StmdeployError (exit code 4) unless all are finite."""
    import numpy as np

    with _running(len(images)):
        runner.prepare(images)
        runner.run()
        logits = runner.output().astype("float64")
    if not np.isfinite(logits).all():
        cause = _explained(explain, images)
        raise differs(
            f"outputs are not finite at batch {len(images)}{cause and ': '}{cause}",
            _NOTHING_WRITTEN,
        )
    return logits


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
