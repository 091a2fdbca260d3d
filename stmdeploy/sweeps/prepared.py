"""A stored sweep whose models are exported, and the rows that are made from it."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from stmdeploy.errors import Failure, FailureKind, StmdeployError
from stmdeploy.hardware.environment import environment
from stmdeploy.measure.summary import summarize
from stmdeploy.plugins.progress import Progress
from stmdeploy.results.state import now_utc
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.schema.hardware import Bound, Environment
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Prepared, PreparedArtifact, Row
from stmdeploy.spec.model import CLASSIFICATION, ModelSpec
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.sweeps.blocks import Memory, estimated
from stmdeploy.sweeps.exports import artifact_for, export_for, exports_of, path_of
from stmdeploy.sweeps.folder import artifacts_of
from stmdeploy.worker.exports import export_steps

#: After these failures half the batch may fit: the system kills a process that takes too much.
_MEMORY_KINDS = frozenset({FailureKind.OUT_OF_MEMORY, FailureKind.KILLED})


class PreparedSweep:
    """A stored sweep whose models this process prepares, and whose rows it assembles."""

    def __init__(self, store: Store, sweep: str, progress: Progress) -> None:
        self.store, self.id = store, sweep
        self.spec = store.asked(sweep)
        self.environment: Environment = environment()
        self._progress = progress
        self._models: dict[ModelSpec, Prepared] = {}
        self._artifacts: dict[Path, Artifact] = {}

    @property
    def _folder(self) -> Path:
        return artifacts_of(self.store, self.id)

    def prepare(self) -> None:
        """Builds, counts and exports the models that are not yet ready, each in a worker.

        Raises:
            StmdeployError: a model cannot be built, or its artifacts cannot be written.
        """
        known = self.store.prepared(self.id)
        new = [m for i, m in enumerate(self.spec.models) if i not in known]
        steps = (export_steps(exports_of(self.spec, model, self._folder)) for model in new)
        if total := sum(steps):
            self._progress.phase("exporting", total)
        for position, model in enumerate(self.spec.models):
            ready = known.get(position)
            if ready is None or not self._intact(ready):
                ready = export_for(self.spec, model, self._folder, self._progress)
                self.store.save_prepared(self.id, position, ready)
            self._models[model] = ready

    def _intact(self, prepared: Prepared) -> bool:
        """Whether the artifacts of an earlier run lie unchanged in this store's folder."""
        folder = self._folder.resolve()
        for artifact in prepared.artifacts:
            if artifact.path is None:
                continue
            if folder not in artifact.path.resolve().parents:
                return False
            try:
                if read_artifact(artifact.path).manifest.seal != artifact.seal:
                    return False
            except StmdeployError:
                return False
        return True

    def verified(self, spec: RowSpec) -> Path:
        """The main file of a row's artifact, after a check that it is still what was prepared.

        Raises:
            StmdeployError: it was not exported, or was changed or replaced since then.
        """
        prepared = self.artifact_of(spec)
        path = path_of(prepared)
        if path not in self._artifacts:
            self._artifacts[path] = read_artifact(path)
        artifact = self._artifacts[path]
        if artifact.manifest.seal != prepared.seal:
            told = f"{path} is another artifact than the one that was prepared"
            raise StmdeployError(told, "measure again: stmdeploy profile")
        artifact.check()
        return path

    def artifact_of(self, spec: RowSpec) -> PreparedArtifact:
        """The prepared artifact of a row, or its failure."""
        return artifact_for(spec, self._models[spec.model])

    def memory(self, spec: RowSpec) -> Memory:
        """How much memory a process of a row takes."""
        activations = self._models[spec.model].activations
        return estimated(spec.run, self.artifact_of(spec).mib or 0.0, activations)

    def row(
        self,
        spec: RowSpec,
        processes: tuple[ProcessRun, ...] = (),
        *,
        failure: Failure | None = None,
        bound: Bound | None = None,
    ) -> Row:
        """Assembles a row from its processes, or with the reason why it failed."""
        prepared, artifact, run = self._models[spec.model], self.artifact_of(spec), spec.run
        info = prepared.model
        machine = processes[0].environment if processes else self.environment
        published = prepared.published if run.precision == "fp32" else None
        top1, aps = (published, None) if info.task == CLASSIFICATION else (None, published)
        return Row(
            key=spec.key,
            repeat=spec.repeat,
            model=info.name,
            stm=info.stm,
            scale=info.scale,
            task=info.task,
            neck=info.neck,
            weights=info.weights.kind,
            weights_sha256=info.weights.sha256,
            image_height_px=info.image_size[0] if info.image_size else None,
            image_width_px=info.image_size[1] if info.image_size else None,
            batch=run.batch,
            precision=run.precision,
            lowering=artifact.lowering,
            runtime=run.runtime,
            device=run.device,
            # The processor of a cluster node is only known once it has measured.
            device_name=run.gpu_name or (run.node if not processes else "") or machine.processor,
            threads=run.threads,
            in_flight=run.in_flight,
            scenario=run.scenario.name,
            python=run.python,
            published_top1_percent=top1.top1_percent if top1 else None,
            published_box_ap_percent=aps.box_ap_percent if aps else None,
            published_mask_ap_percent=aps.mask_ap_percent if aps else None,
            parameters=prepared.parameters,
            macs=prepared.macs,
            matmul_conv_macs=prepared.matmul_conv_macs,
            activations=prepared.activations,
            uncounted_operators=prepared.uncounted_operators,
            node=run.node,
            artifact_sha256=artifact.sha256,
            artifact_mib=artifact.mib,
            export_s=artifact.export_s,
            build_s=artifact.build_s,
            relative_l2_error=artifact.relative_l2_error,
            stmdeploy_version=version("stmdeploy"),
            started_utc=now_utc(),
            environment=machine,
            measurement=summarize(processes, run) if processes else None,
            failure=failure.message if failure else None,
            failure_kind=failure.kind if failure else None,
            failure_code=int(failure.code) if failure else 0,
            bound=bound,
        )

    def add_smaller(self, spec: RowSpec, failure: Failure) -> int | None:
        """Plans half the batch for a row that ran out of memory, if the sweep asks for that.

        Returns:
            The position of the new row; None if there is none.
        """
        memory = failure.kind in _MEMORY_KINDS
        if memory and self.spec.smaller_batch and spec.run.batch > 1:
            smaller = replace(spec, run=replace(spec.run, batch=spec.run.batch // 2))
            return self.store.add_row(self.id, smaller.key, smaller.to_json())
        return None
