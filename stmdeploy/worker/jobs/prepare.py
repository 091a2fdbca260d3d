"""A model, built, counted and exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from stmdeploy.errors import DestinationError, DiskFullError, Failure, FailureKind, StmdeployError
from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.schema.artifact import Artifact
from stmdeploy.schema.evaluation import Published
from stmdeploy.schema.manifest import EngineInfo
from stmdeploy.schema.row import Prepared, PreparedArtifact
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import CLASSIFICATION, FileSpec, ModelSpec
from stmdeploy.worker.jobs.job import Job, Parent

if TYPE_CHECKING:
    from stmdeploy.backbones.source import BuiltModel
    from stmdeploy.plugins.exporter import Exporter

#: Image size (height, width) and classes that the published top-1 were measured with.
_PUBLISHED_SIZE, _PUBLISHED_CLASSES = (224, 224), 1000
#: COCO images for the published APs, scaled until one of these is their shorter or longer side.
_COCO_SHORTER, _COCO_LONGER = 800, 1344


class PrepareJob(Job[Prepared]):
    """Builds, counts and exports a model; a failed export does not stop the others."""

    kind: Literal["prepare"] = "prepare"
    model: ModelSpec
    exports: tuple[ExportSpec, ...]

    def do(self, parent: Parent) -> Prepared:
        """What the model is, what it costs, and its artifacts in the order of the exports.

        Raises:
            StmdeployError: the model cannot be built or counted, or a folder cannot be written to.
        """
        if self.model.file is not None:
            return _taken(self.model.file, self.exports, parent)
        from stmdeploy.backbones.complexity import count
        from stmdeploy.backbones.source import build_model

        built = build_model(self.model, parent)
        parent.step(f"counting {self.model.name}")
        complexity = count(built.module, self.model.image_size)
        return Prepared(
            model=built.info,
            published=_published(built),
            parameters=complexity.parameters,
            macs=complexity.macs,
            matmul_conv_macs=complexity.matmul_conv_macs,
            activations=complexity.activations,
            uncounted_operators=complexity.uncounted,
            artifacts=tuple(_exported(built, spec, parent) for spec in self.exports),
        )


def _exported(built: BuiltModel, spec: ExportSpec, parent: Parent) -> PreparedArtifact:
    from stmdeploy.artifacts.artifact import export_built

    return _made(spec, lambda exporter: export_built(built, exporter, spec, parent))


def _taken(file: FileSpec, exports: tuple[ExportSpec, ...], parent: Parent) -> Prepared:
    """A file from outside as artifacts, counted by its graph."""
    from stmdeploy.artifacts.outside import adopted, model_of
    from stmdeploy.schema.artifact import read_artifact

    artifacts = tuple(
        _made(spec, lambda exporter, spec=spec: adopted(file, exporter, spec, parent))  # type: ignore[misc]
        for spec in exports
    )
    paths = [one.path for one in artifacts if one.path is not None]
    info = read_artifact(paths[0]).manifest.model if paths else model_of(file)
    operations = next((one.operations for one in artifacts if one.operations), ())
    macs = sum(one.nodes * one.macs for one in operations)
    return Prepared(
        model=info,
        published=None,
        parameters=info.parameters,
        macs=macs,
        matmul_conv_macs=macs,
        activations=sum(one.nodes * one.activation_elements for one in operations),
        uncounted_operators={},
        artifacts=artifacts,
    )


def _made(spec: ExportSpec, make: Callable[[Exporter], Artifact]) -> PreparedArtifact:
    """An artifact, or why it could not be made."""
    from stmdeploy.plugins.registry import exporter_for_target

    try:
        exporter = exporter_for_target(spec.target, source_only=spec.source_only)
        made = as_prepared(make(exporter))
        return made.model_copy(update={"provider": spec.provider})
    except StmdeployError as error:
        if isinstance(error, DestinationError) and not isinstance(error, DiskFullError):
            raise
        failure = Failure.of(error)
    except MemoryError:
        failure = Failure(FailureKind.OUT_OF_MEMORY, "out of memory")
    return failed_export(spec, failure)


def failed_export(spec: ExportSpec, failure: Failure) -> PreparedArtifact:
    """What stands for an artifact that could not be exported."""
    return PreparedArtifact(
        target=spec.target,
        precision=spec.precision,
        batch=spec.engine.only_batch,
        provider=spec.provider,
        failure=failure,
    )


def as_prepared(artifact: Artifact) -> PreparedArtifact:
    """An artifact in the form that rows refer to."""
    manifest, checked = artifact.manifest, artifact.manifest.verification
    return PreparedArtifact(
        target=manifest.target,
        precision=manifest.precision,
        batch=_only_batch(manifest.engine),
        path=artifact.path.resolve(),
        seal=manifest.seal,
        sha256=manifest.files[0].sha256,
        mib=artifact.size_bytes / BYTES_PER_MIB,
        lowering=manifest.lowering,
        export_s=manifest.export_s,
        build_s=manifest.engine.build_s if manifest.engine else None,
        relative_l2_error=checked.relative_l2_error if checked else None,
        operations=manifest.operations,
    )


def _only_batch(engine: EngineInfo | None) -> int | None:
    return engine.batch[0] if engine and engine.batch[0] == engine.batch[2] else None


def _published(built: BuiltModel) -> Published | None:
    """The authors' accuracy, if they published one of this very model."""
    info = built.info
    if info.task == CLASSIFICATION:
        same = (info.image_size, info.num_classes) == (_PUBLISHED_SIZE, _PUBLISHED_CLASSES)
    else:
        same = _is_of_coco(info.pixels)
    weights_fit = built.official or info.weights.kind == "synthetic"
    return built.config.published if built.config and same and weights_fit else None


def _is_of_coco(image_size: tuple[int, int]) -> bool:
    """Whether images of this size are among those that the APs were measured with: their ratio is
    kept, the shorter side is 800 px, or the longer one 1344 (1333, padded) where that comes first.
    """
    shorter, longer = sorted(image_size)
    return (shorter == _COCO_SHORTER and longer <= _COCO_LONGER) or (
        longer == _COCO_LONGER and shorter < _COCO_SHORTER
    )
