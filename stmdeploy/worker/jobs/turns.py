"""One side of a comparison: loaded, warm, and run whenever the parent says so."""

from __future__ import annotations

from typing import Literal

from stmdeploy.measure.sampling import Turn
from stmdeploy.plugins.runner import Inputs, Runner
from stmdeploy.schema.measurement import TurnsRun
from stmdeploy.worker.jobs.job import ArtifactJob, Parent, limit_memory


class TurnsJob(ArtifactJob[TurnsRun]):
    """Takes a turn for every further line on stdin, and tells the parent its inferences."""

    kind: Literal["turns"] = "turns"
    memory_limit_mib: int | None = None

    def do(self, parent: Parent) -> TurnsRun:
        """What the side reports of itself at its end.

        Both sides run the same images, after a first check over those whose outputs are known.

        Raises:
            StmdeployError: as for `MeasureJob`.
        """
        limit_memory(self.memory_limit_mib)
        from stmdeploy.hardware.cuda import L2Flush
        from stmdeploy.hardware.environment import environment
        from stmdeploy.hardware.machine import processors_busy_s
        from stmdeploy.measure.calm import OthersUse
        from stmdeploy.measure.clock import HostClock
        from stmdeploy.measure.turns import take_turns, to_words

        def next_turn(taken: Turn) -> bool:
            return parent.next_turn(to_words(taken))

        model, others = self.loading(self.random_inputs, self._check), OthersUse(processors_busy_s)
        flush = L2Flush() if self.run.settings.cold_l2 else None
        return take_turns(model, HostClock(), environment(), others, next_turn, flush)

    def _check(self, runner: Runner, inputs: Inputs) -> None:
        if self.probe is None:
            return
        known = self.probe.batch(self.run.batch)
        runner.prepare(known)
        self.probe.look(runner, known)
        runner.prepare(*inputs)
