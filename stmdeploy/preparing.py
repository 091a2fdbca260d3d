"""A sweep's models made ready: built, counted and exported, each in a worker; and its rows."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from stmdeploy.artifact import Artifact, read_artifact
from stmdeploy.contracts import Progress
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.hardware import environment
from stmdeploy.jobs import Answer, PrepareJob, run_job
from stmdeploy.measure.summary import summarize
from stmdeploy.registry import exporter_of
from stmdeploy.results.row import Bound, Environment, Prepared, PreparedArtifact, ProcessRun, Row
from stmdeploy.results.store import Store, now_utc
from stmdeploy.spec import ExportSpec, ModelSpec
from stmdeploy.sweep import RowSpec

#: Where a store keeps the artifacts and LoadGen's logs of its sweeps, beside it.
ARTIFACTS, LOGS = "artifacts", "loadgen-logs"
#: How failures begin that no process of the row had.
NOT_EXPORTED, NO_ENGINE = "not exported: ", "no engine: "
#: How engines and systems say that memory is out.
_OUT_OF_MEMORY = (
    "out of memory", "memoryerror", "bad_alloc", "failed to allocate", "cannot allocate",
    "can't allocate", "defaultcpuallocator", "outofmemory", "out_of_memory", "alloc_failed",
    "memoryallocation", "insufficient memory",
)  # fmt: skip


class PreparedSweep:
    """A sweep of a store whose models this process prepares, and whose rows it puts together."""

    def __init__(self, store: Store, sweep: str, progress: Progress) -> None:
        self.store, self.id = store, sweep
        self.spec = store.asked(sweep)
        self.environment: Environment = environment()
        self._progress = progress
        self._models: dict[ModelSpec, Prepared] = {}
        self._artifacts: dict[Path, Artifact] = {}

    def prepare(self) -> None:
        """Builds, counts and exports every model that is not yet, each in a worker.

        Raises:
            StmdeployError: a model cannot be built, or the artifacts not be written.
        """
        known = self.store.prepared(self.id)
        for position, model in enumerate(self.spec.models):
            ready = known.get(position)
            if ready is None or not self._intact(ready):
                ready = self._prepare(model)
                self.store.save_prepared(self.id, position, ready)
            self._models[model] = ready

    def _prepare(self, model: ModelSpec) -> Prepared:
        exports = self._exports(model)
        self._progress.expect(2 + 2 * len(exports))
        answer = self._prepare_job(model, exports)
        if answer.prepared is not None:
            return answer.prepared
        if answer.code:
            raise StmdeployError(answer.failure, answer.hint, ExitCode(answer.code))
        # The worker itself died: find out of which export, so that the others have theirs.
        self._progress.expect(2 + 4 * len(exports))
        bare = self._prepare_job(model, ())
        if bare.prepared is None:
            raise StmdeployError(
                f"{model.name} cannot be built: {bare.failure}",
                bare.hint,
                ExitCode(bare.code or ExitCode.WORKER_FAILED),
            )
        single = [(spec, self._prepare_job(model, (spec,))) for spec in exports]
        artifacts = tuple(
            answer.prepared.artifacts[0]
            if answer.prepared is not None
            else PreparedArtifact(
                target=spec.target,
                precision=spec.precision,
                failure=answer.failure,
                code=answer.code or int(ExitCode.WORKER_FAILED),
            )
            for spec, answer in single
        )
        return bare.prepared.model_copy(update={"artifacts": artifacts})

    def _exports(self, model: ModelSpec) -> tuple[ExportSpec, ...]:
        targets = dict.fromkeys(exporter_of(run.runtime).target for run in self.spec.runs)
        return tuple(
            ExportSpec(
                model,
                target,
                self.store.folder / ARTIFACTS / self.id,
                precision,
                self.spec.lowering,
                calibration=self.spec.calibration,
                engine=self.spec.engine,
                source_only=bool(self.spec.nodes),
            )
            for precision in self.spec.precisions
            for target in targets
        )

    def _prepare_job(self, model: ModelSpec, exports: tuple[ExportSpec, ...]) -> Answer:
        job = PrepareJob(model=model, exports=exports)
        # An engine is for the GPU that builds it: the one that the sweep is measured on.
        uuid = next((run.gpu_uuid for run in self.spec.runs if run.gpu_uuid), "")
        settings = {"CUDA_VISIBLE_DEVICES": uuid} if uuid else {}
        return run_job(job, settings, self.spec.export_timeout_s, self._progress)

    def _intact(self, prepared: Prepared) -> bool:
        """Whether the artifacts of an earlier run lie in this store's folder as they were."""
        folder = (self.store.folder / ARTIFACTS / self.id).resolve()
        for artifact in prepared.artifacts:
            if artifact.path is None:
                continue
            if artifact.path.parent != folder:
                return False
            try:
                if read_artifact(artifact.path).manifest.seal != artifact.seal:
                    return False
            except StmdeployError:
                return False
        return True

    def verified(self, spec: RowSpec) -> Path:
        """The main file of a row's artifact, which is what was prepared: looked at every time.

        Raises:
            StmdeployError: it was not exported; or it was changed, or exchanged, since then.
        """
        prepared = self.artifact_of(spec)
        if prepared.path is None:
            raise StmdeployError(
                f"{NOT_EXPORTED}{prepared.failure}", "", ExitCode(prepared.code or 5)
            )
        if prepared.path not in self._artifacts:
            self._artifacts[prepared.path] = read_artifact(prepared.path)
        artifact = self._artifacts[prepared.path]
        if artifact.manifest.seal != prepared.seal:
            raise StmdeployError(
                f"{prepared.path} is another artifact than the one that was prepared",
                "measure again",
            )
        artifact.check()
        return prepared.path

    def artifact_of(self, spec: RowSpec) -> PreparedArtifact:
        """What was prepared of a row's model for its runtime and precision."""
        target = exporter_of(spec.run.runtime).target
        return next(
            artifact
            for artifact in self._models[spec.model].artifacts
            if (artifact.target, artifact.precision) == (target, spec.run.precision)
        )

    def row(
        self,
        spec: RowSpec,
        processes: tuple[ProcessRun, ...],
        failure: str | None = None,
        bound: Bound | None = None,
        code: int = int(ExitCode.WORKER_FAILED),
    ) -> Row:
        """What a row comes to with some processes, or why it has none and with which exit code."""
        prepared, artifact, run = self._models[spec.model], self.artifact_of(spec), spec.run
        machine = processes[0].environment if processes else self.environment
        published = prepared.published if run.precision == "fp32" else None
        info = prepared.model
        return Row(
            model=info.name,
            stm=info.stm,
            scale=info.scale,
            weights=info.weights.kind,
            weights_sha256=info.weights.sha256,
            image_height_px=info.image_size[0],
            image_width_px=info.image_size[1],
            batch=run.batch,
            precision=run.precision,
            lowering=artifact.lowering,
            runtime=run.runtime,
            device=run.device,
            # What a node of a cluster has is only known once it has measured.
            device_name=run.gpu_name or (run.node if not processes else "") or machine.processor,
            threads=run.threads,
            in_flight=run.in_flight,
            scenario=run.scenario.name,
            python=run.python,
            published_top1_percent=published.top1_percent if published else None,
            published_box_ap_percent=published.box_ap_percent if published else None,
            published_mask_ap_percent=published.mask_ap_percent if published else None,
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
            measurement=(summarize(processes, run, self.spec.sampling) if processes else None),
            failure=failure,
            failure_code=code if failure else 0,
            bound=bound,
        )

    def add_smaller(self, spec: RowSpec, failure: str) -> int | None:
        """Half the batch of a row that ran out of memory, where the sweep wants that; where."""
        # Exports and engines are not of a batch.
        elsewhere = failure.startswith((NOT_EXPORTED, NO_ENGINE))
        memory = out_of_memory(failure) and not elsewhere
        if memory and self.spec.smaller_batch and spec.run.batch > 1:
            smaller = replace(spec, run=replace(spec.run, batch=spec.run.batch // 2))
            return self.store.add_row(self.id, smaller.key, smaller.to_json())
        return None


def out_of_memory(failure: str) -> bool:
    """Whether memory was out, by the words that engines and systems have for it."""
    return any(words in failure.lower() for words in _OUT_OF_MEMORY)
