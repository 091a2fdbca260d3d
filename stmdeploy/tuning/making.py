"""What a race needs before it begins: artifacts, each made once, and tests of the limits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import sha256_of, write_atomically
from stmdeploy.measure.fidelity import ALPHA, Outcome, bounds, images_needed, tested
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_for_target
from stmdeploy.plugins.trust import PROGRAMS
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.schema.document import Document
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import PreparedArtifact
from stmdeploy.schema.tuned import LimitTest, State
from stmdeploy.spec.export import FULL_PRECISION, ExportSpec
from stmdeploy.spec.tuning import TuneSpec
from stmdeploy.tuning.candidates import Candidate, exact_precision
from stmdeploy.worker.client import run_job, worker_settings
from stmdeploy.worker.exports import export_model
from stmdeploy.worker.jobs.fidelity import FidelityJob
from stmdeploy.worker.jobs.job import without_checkpoint


@dataclass
class Entry:
    """A candidate, and what is known of it so far.

    Attributes:
        artifact, exported: what it runs; None as long as that is not made, or if it failed.
        test: of the limits; None for fp32.
        out: why it cannot win, as a state and in words; None if it can.
        runs: its processes, by wave.
    """

    candidate: Candidate
    artifact: Artifact | None = None
    exported: PreparedArtifact | None = None
    test: LimitTest | None = None
    out: tuple[State, str] | None = None
    runs: dict[int, ProcessRun] = field(default_factory=dict)


class _Made(Document):
    """An artifact as it was made, and its model's activations."""

    artifact: PreparedArtifact
    activations: int


class Making:
    """Makes the artifacts of candidates, and tests them.

    Attributes:
        entries: what became of each, by its name.
        activations: elements that products of the model write for an image; 0 before any export.
    """

    def __init__(
        self, spec: TuneSpec, usual: Candidate, here: Environment, progress: Progress
    ) -> None:
        self._spec, self._usual, self._environment = spec, usual, here
        self._progress = progress
        self.entries: dict[str, Entry] = {}
        self.activations = 0

    def make(self, candidates: Iterable[Candidate]) -> list[Entry]:
        """Exports what is new among candidates, and tests the limits.

        Returns:
            The new entries; of those that cannot win, `Entry.out` says why.

        Raises:
            StmdeployError: the model cannot be built, too few images, or the usual configuration
                cannot be exported.
        """
        named = {one.name: one for one in candidates if one.name not in self.entries}
        new = [Entry(one) for one in named.values()]
        self.entries |= {entry.candidate.name: entry for entry in new}
        self._export(new)
        self._test(new)
        return new

    def _export(self, entries: Sequence[Entry]) -> None:
        """Makes the artifacts that there are not yet, in one worker for all."""
        specs = {entry.candidate.name: self._export_spec(entry.candidate) for entry in entries}
        made: dict[str, PreparedArtifact] = {}
        exports = []
        for one in {str(one.folder): one for one in specs.values()}.values():
            known = self._known(one)
            if known is None:
                exports.append(one)
            else:
                made[str(one.folder)] = known
        if exports:
            uuid = self._spec.runs[0].gpu_uuid
            prepared = export_model(
                self._spec.model, exports, self._spec.export_timeout_s, self._progress, uuid
            )
            for one, artifact in zip(exports, prepared.artifacts, strict=True):
                made[str(one.folder)] = artifact
                if artifact.failure is None:
                    note = _Made(artifact=artifact, activations=prepared.activations)
                    write_atomically(one.folder / "made.json", note.model_dump_json().encode())
            self.activations = prepared.activations
        for entry in entries:
            self._settle(entry, made[str(specs[entry.candidate.name].folder)])

    def _settle(self, entry: Entry, made: PreparedArtifact) -> None:
        entry.exported = made
        if made.failure is not None or made.path is None:
            assert made.failure is not None
            if entry.candidate.name == self._usual.name:
                raise made.failure.error("the usual configuration: ")
            entry.out = ("failed", f"not exported: {made.failure.message}")
            return
        entry.artifact = read_artifact(made.path)

    def _export_spec(self, candidate: Candidate) -> ExportSpec:
        """The export of a candidate, into a folder of its own, which its name says all about."""
        spec, precision = self._spec, candidate.run.precision
        calibration = spec.calibration
        if spec.data is not None:
            calibration = replace(calibration, folder=spec.data.folder)
        export = ExportSpec(
            spec.model,
            candidate.target,
            spec.folder,
            precision,
            None if spec.model.file else candidate.form,
            calibration=calibration,
            engine=candidate.engine,
            provider=candidate.run.gpu_provider,
        )
        words = (
            repr(spec.model), repr(candidate.artifact_key), version("stmdeploy"),
            self._checkpoint_hash, repr(calibration) if precision != FULL_PRECISION else "",
            self._environment.versions,
        )  # fmt: skip
        folder = f"{candidate.target}-{precision}-{candidate.form}-{short_hash(words)}"
        return replace(export, folder=(spec.folder / "artifacts" / folder).resolve())

    @cached_property
    def _checkpoint_hash(self) -> str:
        """Of a checkpoint, or a model, that is a file: another one may have the same name."""
        file = self._spec.model.file
        checkpoint = file.path if file else Path(self._spec.model.checkpoint or "")
        return sha256_of(checkpoint) if checkpoint.is_file() else ""

    def _known(self, export: ExportSpec) -> PreparedArtifact | None:
        """The artifact of an earlier race, if it is still what it was. A program is made anew: who
        gave us the folder could have put it there."""
        if exporter_for_target(export.target).target.suffix in PROGRAMS:
            return None
        with suppress(OSError, ValidationError, StmdeployError):
            note = _Made.model_validate_json((export.folder / "made.json").read_bytes())
            known = note.artifact
            here = known.path is not None and known.path.parent == export.folder
            if here and read_artifact(Path(str(known.path))).manifest.seal == known.seal:
                self.activations = note.activations
                return known
        return None

    def _test(self, entries: Sequence[Entry]) -> None:
        """Tests the limits on every new configuration of low precision, as it runs: its artifact
        under its runtime and settings."""
        limits = self._spec.limits
        low = [
            e for e in entries
            if e.out is None and e.candidate.run.precision != exact_precision(self._spec)
        ]  # fmt: skip
        if not low:
            return
        if self._spec.data is None and not any(e.candidate.parent for e in low):
            self._progress.warn(
                "WARNING: the limits are tested with random images, which look like no "
                "photograph. Give --data FOLDER."
            )
        # All that are tested share the error, so that it does not matter which of them wins: half
        # of it is for the first round, and half for other settings of the best.
        level = ALPHA / 2 / len(low)
        if (needed := images_needed(limits, level)) > self._spec.held_out:
            raise StmdeployError(
                f"{self._spec.held_out} images cannot show that the limits are kept: {needed} can",
                f"give --held-out {needed}, and as many images",
            )
        self._progress.expect(len(low))
        for entry in low:
            try:
                found = self._fidelity(entry)
            except StmdeployError as error:
                entry.out = ("failed", error.message)
                continue
            entry.test = LimitTest(**tested(found, bounds(found, level), level, limits))
            if not entry.test.holds:
                entry.out = ("over a limit", _broken(entry.test))

    def _fidelity(self, entry: Entry) -> Outcome:
        """What an artifact keeps, image by image; read if it was found out before."""
        spec, run = self._spec, entry.candidate.run
        usual = self.entries[self._usual.name].artifact
        assert entry.artifact is not None
        assert usual is not None
        job = FidelityJob(
            artifact=entry.artifact.path,
            model=without_checkpoint(spec.model),
            run=run,
            reference=usual.path,
            reference_run=replace(self._usual.run, batch=run.batch),
            data=spec.data,
            preparation=entry.artifact.manifest.model.preparation,
            used=2 * spec.calibration.images,
            images=spec.held_out,
            seed=spec.seed,
        )
        words = (job.model_dump_json(), entry.artifact.manifest.seal, self._images_hash)
        path = spec.folder / "limits" / f"{short_hash(words)}.json"
        self._progress.step(f"testing the limits of {entry.candidate.name}")
        with suppress(OSError, ValueError, TypeError, KeyError):
            return Outcome.of_table(json.loads(path.read_text("utf-8")))
        answer = run_job(
            job, worker_settings(run), spec.row_timeout_s, self._progress, while_silent=True
        )
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps(answer.outcome).encode())
        return Outcome.of_table(answer.outcome)

    @cached_property
    def _images_hash(self) -> str:
        from stmdeploy.backbones.images import images_of

        if self._spec.data is None:
            return ""
        return images_of(self._spec.data, self._spec.model.head_classes).sha256


def short_hash(words: object) -> str:
    """A few hexadecimal digits of the SHA-256 of what JSON can hold, or else of its text."""
    return hashlib.sha256(json.dumps(words, default=str).encode()).hexdigest()[:12]


def _broken(test: LimitTest) -> str:
    """What is known of an artifact that is over a limit."""
    error = "-" if test.error_bound is None else f"{test.error_bound:.2e}"
    told = f"error at most {error}, agreement at least {test.agreement_bound_percent:.2f} %"
    if test.top1_drop_bound_percent is not None:
        told += f", top-1 at most {test.top1_drop_bound_percent:.2f} points lower"
    return f"{told}, over {test.images} images"
