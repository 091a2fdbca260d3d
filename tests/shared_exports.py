"""Exports of the catalogue's models, done once for all tests that come after an export.

They are done in the process of the test that asks first: it has imported what an export takes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path
from typing import TypeVar, cast

import pytest

from stmdeploy.plugins.progress import Progress, Silent
from stmdeploy.schema.row import Prepared
from stmdeploy.spec.export import ExportSpec
from stmdeploy.worker.client import run_job
from stmdeploy.worker.jobs.job import Job, Parent
from stmdeploy.worker.jobs.prepare import PrepareJob
from tests.sharing import SharedArtifacts

T = TypeVar("T")
#: With less than this, in seconds, a test wants to see an export run out of time.
_PATIENT_S = 60.0


class _NotSharedError(Exception):
    """Something of it failed, which is not kept: each test sees that for itself."""


class _Script(Silent):
    """What a worker told, in its order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def step(self, text: str) -> None:
        self.told.append(("step", text))

    def detail(self, text: str) -> None:
        self.told.append(("detail", text))

    def warn(self, text: str) -> None:
        self.told.append(("warn", text))


@dataclass(frozen=True)
class SharedExports:
    """In the place of `run_job`: the files, the answer and the words of the first such export."""

    artifacts: SharedArtifacts

    def run_job(
        self, job: Job[T], settings: dict[str, str], timeout_s: float, progress: Progress
    ) -> T:
        """Copies what an equal job has made, or does this one."""
        patient = timeout_s >= _PATIENT_S and not settings
        if not (isinstance(job, PrepareJob) and patient and self._is_the_same_for_all(job)):
            return run_job(job, settings, timeout_s, progress)
        try:
            return self._shared(job, progress)  # type: ignore[return-value]
        except _NotSharedError:
            return job.do(cast("Parent", progress))  # type: ignore[return-value]

    def _shared(self, job: PrepareJob, progress: Progress) -> Prepared:
        """Export for export: other jobs ask for some of the same."""
        roots = [self._made(job, spec) for spec in job.exports]
        answers: list[Prepared] = []
        for spec, root in zip(job.exports, roots, strict=True):
            folder = spec.folder.resolve()
            told = json.loads((root / "told.json").read_text())
            shutil.copytree(root / "files", folder, dirs_exist_ok=True)
            for word, text in dropwhile(_is_before_the_export, told) if answers else told:
                getattr(progress, word)(text)
            answer = Prepared.model_validate_json((root / "answer.json").read_text())
            answers.append(_moved(answer, Path(), folder))
        artifacts = tuple(one for answer in answers for one in answer.artifacts)
        return answers[0].model_copy(update={"artifacts": artifacts})

    def _is_the_same_for_all(self, job: PrepareJob) -> bool:
        """Whether what it makes follows from its words alone, and from files that all tests share;
        and fills folders that are empty."""
        model = job.model
        files = (model.checkpoint, *(spec.calibration.folder for spec in job.exports))
        return (
            len(job.exports) > 0
            and not any(any(spec.folder.glob("*")) for spec in job.exports)
            and not (model.file or model.is_custom)
            and all(Path(file).is_relative_to(self.artifacts.root) for file in files if file)
            and not any(spec.ranges or spec.engine.timing_cache for spec in job.exports)
        )

    def _made(self, job: PrepareJob, spec: ExportSpec) -> Path:
        """A folder of the files of one export, the answer, and what was told."""

        def make(root: Path) -> None:
            script, files = _Script(), root / "files"
            made = _alone(job, replace(spec, folder=files)).do(cast("Parent", script))
            if made.artifacts[0].path is None:
                raise _NotSharedError
            (root / "answer.json").write_text(
                _moved(made, files.resolve(), Path()).model_dump_json()
            )
            (root / "told.json").write_text(json.dumps(script.told))

        key = _alone(job, replace(spec, folder=Path())).model_dump_json()
        return self.artifacts.made(key, make)


def share_exports(artifacts: SharedArtifacts, patch: pytest.MonkeyPatch) -> None:
    """Of equal exports of a test session one is run, and the others are copies."""
    patch.setattr("stmdeploy.worker.exports.run_job", SharedExports(artifacts).run_job)


def _alone(job: PrepareJob, spec: ExportSpec) -> PrepareJob:
    return job.model_copy(update={"exports": (spec,)})


def _is_before_the_export(told: tuple[str, str]) -> bool:
    return not told[1].startswith("exporting ")


def _moved(made: Prepared, old: Path, new: Path) -> Prepared:
    """With the paths that its artifacts have in another folder."""
    paths = [new / one.path.relative_to(old) for one in made.artifacts if one.path]
    moved = zip(made.artifacts, paths, strict=True)
    artifacts = tuple(one.model_copy(update={"path": path}) for one, path in moved)
    return made.model_copy(update={"artifacts": artifacts})
