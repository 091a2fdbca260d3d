"""One process of a row."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stmdeploy.plugins.runner import Inputs, Runner
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import ProcessRun, ScenarioResult
from stmdeploy.spec.run import SamplingSpec
from stmdeploy.worker.jobs.job import ArtifactJob, Parent, limit_memory


class MeasureJob(ArtifactJob[ProcessRun]):
    """Measures an artifact in this process.

    ``environment`` is what the parent has read of this machine and interpreter; None for another
    interpreter, which then reads its own. ``memory_limit_mib`` bounds what the worker may
    allocate; None for no bound. ``logs`` is the folder that LoadGen writes to.
    """

    kind: Literal["measure"] = "measure"
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
        from stmdeploy.hardware.cuda import EventTimer, L2Flush
        from stmdeploy.hardware.environment import environment
        from stmdeploy.hardware.machine import load_average, processors_busy_s
        from stmdeploy.hardware.nvml import throttled_ns
        from stmdeploy.measure.calm import run_delay
        from stmdeploy.measure.clock import HostClock
        from stmdeploy.measure.session import Machine, measure

        machine = Machine(
            clock=HostClock(),
            busy_s=processors_busy_s,
            run_delay=run_delay,
            conditions=lambda: read_conditions(self.run.gpu_uuid),
            load_average=load_average,
            environment=self.environment or environment(),
            device_timer=EventTimer,
            throttled_ns=lambda: throttled_ns(self.run.gpu_uuid) if self.run.gpu_uuid else {},
            flush_cache=L2Flush() if self.run.settings.cold_l2 else None,
        )
        model = self.loading(self._inputs, self._check)
        return measure(model, self.run, self.sampling, machine, self._play, parent.next_turn)

    def _inputs(self) -> Inputs:
        """The images whose outputs are known, if there are any."""
        return (self.probe.batch(self.run.batch),) if self.probe else self.random_inputs()

    def _check(self, runner: Runner, inputs: Inputs) -> None:
        if self.probe is not None:
            self.probe.look(runner, inputs[0])

    def _play(self, lanes: list[Runner]) -> ScenarioResult:
        from stmdeploy.measure.loadgen import play

        assert self.logs is not None
        return play(lanes, self.run, self.logs)
