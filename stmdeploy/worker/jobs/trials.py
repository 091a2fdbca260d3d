"""What a low precision costs every part of a model, and the parts to spare."""

from __future__ import annotations

from typing import Literal

from stmdeploy.schema.document import Document
from stmdeploy.schema.mixed import Choice, Sensitivity
from stmdeploy.spec.trials import TrialSpec
from stmdeploy.worker.jobs.job import Job, Parent


class TrialsAnswer(Document):
    """What was found out; ``kept`` are the parts to keep as they are, None if the limits hold with
    none of the candidates. Without limits there is no choice."""

    sensitivity: Sensitivity
    choice: Choice | None = None
    kept: tuple[str, ...] | None = None


class TrialsJob(Job[TrialsAnswer]):
    """Exports candidates, and runs them over images."""

    kind: Literal["trials"] = "trials"
    trials: TrialSpec

    def do(self, parent: Parent) -> TrialsAnswer:
        """The sensitivity of every part; and if limits are asked for, the choice.

        Raises:
            StmdeployError: as `build_model` and `Trials`.
        """
        from stmdeploy.artifacts.trials import Trials
        from stmdeploy.backbones.source import build_model
        from stmdeploy.plugins.registry import exporter_for_target

        export = self.trials.export
        built = build_model(export.model, parent)
        trials = Trials(built, exporter_for_target(export.target), self.trials, parent)
        if not self.trials.limits.any:
            return TrialsAnswer(sensitivity=trials.sensitivity())
        choice, kept = trials.choose()
        return TrialsAnswer(sensitivity=choice.sensitivity, choice=choice, kept=kept)
