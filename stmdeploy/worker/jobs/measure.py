"""One process of a row."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stmdeploy.plugins.runner import Array, Runner
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import ProcessRun, ScenarioResult
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.worker.jobs.inputs import probe_of
from stmdeploy.worker.jobs.job import Job, Parent, builder, limit_memory


class MeasureJob(Job[ProcessRun]):
    """Measures an artifact, whose hash was checked by the parent, in this process.

    ``environment`` is what the parent has read of this machine and interpreter; None for another
    interpreter, which then reads its own. ``memory_limit_mib`` bounds what the worker may
    allocate; None for no bound. ``logs`` is where LoadGen writes.
    """

    kind: Literal["measure"] = "measure"
    artifact: Path
    model: ModelSpec
    run: RunSpec
    sampling: SamplingSpec
    environment: Environment | None = None
    memory_limit_mib: int | None = None
    logs: Path | None = None

    def do(self, parent: Parent) -> ProcessRun:
        """The samples, and what was recorded beside them.

        Raises:
            StmdeployError: the artifact cannot be loaded; (exit code 4) its outputs are not the
                model's.
        """
        limit_memory(self.memory_limit_mib)
        from stmdeploy.hardware.conditions import read_conditions
        from stmdeploy.hardware.cuda import EventTimer
        from stmdeploy.hardware.environment import environment
        from stmdeploy.hardware.machine import load_average
        from stmdeploy.measure.clock import HostClock
        from stmdeploy.measure.session import Machine, Model, measure
        from stmdeploy.plugins.registry import exporter_for_runtime

        exporter = exporter_for_runtime(self.run.runtime)
        model = Model(
            import_runtime=exporter.import_runtime,
            load=lambda: exporter.load(self.artifact, self.run, builder(self.model)),
            make_images=self._known_images,
            check=self._check,
        )
        machine = Machine(
            clock=HostClock(),
            conditions=lambda: read_conditions(self.run.gpu_uuid),
            load_average=load_average,
            environment=self.environment or environment(),
            device_timer=EventTimer,
        )
        return measure(model, self.run, self.sampling, machine, self._play)

    def _check(self, runner: Runner, images: Array) -> None:
        probe_of(self.artifact, self.model, self.run).look(runner, images)

    def _known_images(self) -> Array:
        return probe_of(self.artifact, self.model, self.run).batch(self.run.batch)

    def _play(self, lanes: list[Runner]) -> ScenarioResult:
        from stmdeploy.measure.loadgen import play

        assert self.logs is not None
        return play(lanes, self.run, self.logs)
