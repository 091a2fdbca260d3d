"""The images that workers run, and what an artifact must give for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.plugins.runner import Array
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec

if TYPE_CHECKING:
    from stmdeploy.export.probe import Probe

_SEED = 0


def random_images(model: ModelSpec, batch: int) -> Array:
    """N 3 H W, standard normal, never all zeros; the same in every process."""
    import numpy as np

    random = np.random.default_rng(_SEED)
    return random.standard_normal((batch, 3, *model.image_size), dtype=np.float32)


@cache
def probe_of(artifact: Path, model: ModelSpec, run: RunSpec) -> Probe:
    """What the artifact's manifest says that the model gives. Asked for after the runtime is
    imported, which may share a library with it."""
    from stmdeploy.export.probe import Probe
    from stmdeploy.schema.artifact import read_manifest

    found = read_manifest(artifact).verification
    return Probe(found.outputs, model.image_size, run.precision, found.tolerance_relative_l2)
