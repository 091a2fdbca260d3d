"""Artifacts for tests of what comes after an export: made once for all test workers."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from stmdeploy.artifacts.artifact import export_built
from stmdeploy.backbones.source import build_model
from stmdeploy.check.sides import is_manifest
from stmdeploy.files.writing import writable
from stmdeploy.plugins.progress import Progress, Silent
from stmdeploy.plugins.registry import exporter_for_target
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.spec.export import CalibrationSpec, ExportSpec
from stmdeploy.spec.model import ModelSpec

#: Of low precisions whose quality is not what is tested.
FEW = CalibrationSpec(images=2)


def export_model(spec: ExportSpec, progress: Progress) -> Artifact:
    """An export as a worker does it, in this process: what happens within can be looked at."""
    exporter = exporter_for_target(spec.target)
    progress.expect(3)
    with writable(spec.folder):
        return export_built(build_model(spec.model, progress), exporter, spec, progress)


@dataclass(frozen=True)
class SharedArtifacts:
    """Folders that lie in `root`, which all workers of a test session share.

    What is in them is everybody's: read it, or copy it.
    """

    root: Path

    def exported(
        self, model: ModelSpec, target: str, precision: str = "fp32", **options: object
    ) -> Artifact:
        """An artifact of a model of the catalogue; `options` are of `ExportSpec`."""
        spec = ExportSpec(
            model, target, Path(), precision, **{"calibration": FEW, **options}  # type: ignore[arg-type]
        )  # fmt: skip
        folder = self.made(
            repr(spec), lambda new: export_model(replace(spec, folder=new), Silent())
        )
        (manifest,) = filter(is_manifest, folder.glob("*.json"))
        return read_artifact(manifest.with_suffix(""))

    def made(self, key: str, make: Callable[[Path], object]) -> Path:
        """The folder that `make` fills: whole or not at all, by whoever asks first.

        Args:
            key: all that the content depends on, such as a spec and the source of its model.
        """
        folder = self.root / hashlib.sha256(key.encode()).hexdigest()[:16]
        self.root.mkdir(exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                partial = folder.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(folder)
        return folder
