"""One side of a comparison: loaded, warm, and run whenever the parent says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from stmdeploy.measure.turns import Inference
from stmdeploy.plugins.runner import Array, Runner
from stmdeploy.schema.measurement import TurnsRun
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.inputs import probe_of, random_images
from stmdeploy.worker.jobs.job import Job, Parent, builder, limit_memory


class TurnsJob(Job[TurnsRun]):
    """Every later line on stdin asks for a turn, which is told to the parent."""

    kind: Literal["turns"] = "turns"
    artifact: Path
    model: ModelSpec
    run: RunSpec
    memory_limit_mib: int | None = None

    def do(self, parent: Parent) -> TurnsRun:
        """What the side says of itself at its end.

        Both sides run the same images, so those whose outputs are known come before them.

        Raises:
            StmdeployError: as of `MeasureJob`.
        """
        limit_memory(self.memory_limit_mib)
        from stmdeploy.hardware.environment import environment
        from stmdeploy.measure.clock import HostClock
        from stmdeploy.measure.session import Model
        from stmdeploy.measure.turns import take_turns, to_words
        from stmdeploy.plugins.registry import exporter_for_runtime

        def tell(turn: list[Inference]) -> None:
            parent.say(to_words(turn))

        exporter = exporter_for_runtime(self.run.runtime)
        model = Model(
            import_runtime=exporter.import_runtime,
            load=lambda: exporter.load(self.artifact, self.run, builder(self.model)),
            make_images=lambda: random_images(self.model, self.run.batch),
            check=self._check,
        )
        return take_turns(
            model, HostClock(), environment(), lambda: sys.stdin.readline().strip(), tell
        )

    def _check(self, runner: Runner, images: Array) -> None:
        probe = probe_of(self.artifact, self.model, self.run)
        known = probe.batch(self.run.batch)
        runner.prepare(known)
        probe.look(runner, known)
        runner.prepare(images)
