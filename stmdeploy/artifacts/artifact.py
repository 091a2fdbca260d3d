"""Makes an artifact of a built model: lower -> export -> verify -> judge -> seal -> publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.artifacts.calibration import ExportImages, images_for
from stmdeploy.artifacts.graph import graph_cost, operations
from stmdeploy.artifacts.promises import (
    check_dynamic_size,
    check_keep,
    check_precision,
    forms_for,
    why_not,
)
from stmdeploy.artifacts.verification import (
    Reference,
    draft_runner,
    fidelity,
    further_sizes,
    images_at_once,
    verified_batches,
    verify,
)
from stmdeploy.backbones.lowering import lower
from stmdeploy.backbones.source import BuiltModel, build_module
from stmdeploy.errors import DestinationError, StmdeployError
from stmdeploy.files.writing import staging
from stmdeploy.hardware.machine import available_threads
from stmdeploy.plugins.exporter import Diagnosis, Exporter, Work
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.runner import Array, Runner
from stmdeploy.schema.artifact import Artifact, file_info, publish_artifact
from stmdeploy.schema.manifest import (
    Draft,
    DynamicSize,
    Fidelity,
    KnownOutputs,
    Manifest,
    Verification,
    VerifiedSize,
)
from stmdeploy.spec.export import REFERENCE, ExportSpec
from stmdeploy.spec.run import RunSpec

if TYPE_CHECKING:
    from torch import nn


def export_built(
    built: BuiltModel, exporter: Exporter, spec: ExportSpec, progress: Progress
) -> Artifact:
    """Writes an artifact and its manifest into a scratch folder, verifies it, and publishes both.

    If a form is known to fail, or does, the next best that the target takes is tried, unless a form
    was asked for; `progress` is warned, and the manifest keeps the reason.

    Raises:
        StmdeployError: bad input (exit code 2), or outputs that differ from PyTorch's (4).
    """
    check_precision(exporter, spec.precision, spec.provider)
    check_dynamic_size(exporter, spec)
    check_keep(exporter, spec)
    info = built.info
    preparation = spec.preparation.over(info.preparation)
    built = replace(built, info=info.model_copy(update={"preparation": preparation}))
    images = images_for(spec, preparation, progress)
    forms, notes = usable_forms(built, exporter, spec, progress)
    first: StmdeployError | None = None
    for attempt, form in enumerate(forms):
        progress_of = progress.detail if attempt else progress.step
        export = _Export(built, exporter, spec, form, images, progress_of, progress.detail)
        try:
            return export.published(notes)
        except DestinationError:
            raise
        except StmdeployError as error:
            first = first or error
            notes.append(f"{form} does not work: {error.message}")
            if attempt + 1 < len(forms):
                progress.warn(
                    f"WARNING: {spec.model.name} as {form} does not work for {spec.target} here, "
                    f"{forms[attempt + 1]} is tried instead: {error.message}"
                )
    assert first is not None
    raise first


def usable_forms(
    built: BuiltModel, exporter: Exporter, spec: ExportSpec, progress: Progress
) -> tuple[list[str], list[str]]:
    """The forms to try, the best first, and notes on better ones that are known to fail.

    Raises:
        StmdeployError: the form that is asked for is not one of the target's.
    """
    task = spec.model.task
    forms = forms_for(built.config, exporter, spec.precision, spec.opset, spec.provider)
    if spec.dynamic_size:
        forms = [REFERENCE]  # the others fold what follows from the size
    if spec.lowering is not None:
        if spec.lowering not in forms:
            raise StmdeployError(
                f"{spec.model.name} has no form {spec.lowering!r} for {exporter.target.name}",
                f"leave --lowering out, or choose one of: {', '.join(forms)}",
            )
        return [spec.lowering], []
    if built.config is None:
        return forms, []
    whys = {
        form: why_not(built.config, exporter, spec.precision, form, task, spec.provider)
        for form in forms
    }
    usable = [form for form in forms if not whys[form]] or forms
    best = forms.index(usable[0])
    notes = [f"{form}: {whys[form]}" for form in forms[:best]]
    for note in notes:
        progress.warn(f"{spec.model.name} for {spec.target} as {usable[0]}, not as {note}")
    return usable, notes


@dataclass(frozen=True)
class _Export:
    """One attempt: a model in one form, for one target."""

    built: BuiltModel
    exporter: Exporter
    spec: ExportSpec
    form: str
    images: ExportImages
    step: Callable[[str], None]
    tell: Callable[[str], None]

    def published(self, notes: Sequence[str]) -> Artifact:
        """Exports into a scratch folder, verifies, and publishes; raises as `export_built`."""
        spec = self.spec
        with staging(spec.folder) as scratch:
            self.step(f"exporting {spec.model.name} to {spec.target}, {spec.precision}")
            start = time.perf_counter()
            work = Work(
                module=self._module(),
                form=self.form,
                info=self.built.info,
                outputs=self.built.outputs(dynamic_size=spec.dynamic_size),
                spec=spec,
                folder=scratch,
                images=self.images.calibrating,
                images_source=self.images.source,
                tell=self.tell,
            )
            draft = self.exporter.export(work)
            export_s = time.perf_counter() - start
            self.step(f"verifying {spec.model.name} for {spec.target}, {spec.precision}")
            verification, judged = self._checked(scratch, draft)
            sizes = self._sizes(scratch, draft)
            # Shapes that are computed as the graph runs cannot be counted.
            graph = scratch / draft.graph if draft.graph and not sizes else None
            manifest = Manifest(
                state="built, not run" if draft.not_run else "verified",
                target=spec.target,
                precision=spec.precision,
                kept=spec.keep,
                lowering=self.form,
                notes=tuple(notes),
                model=self.built.info,
                files=tuple(file_info(scratch / name) for name in draft.files),
                verification=verification,
                dynamic_size=sizes,
                fidelity=judged,
                cost=graph_cost(graph) if graph and draft.graph_is_exact else None,
                operations=operations(graph) if graph else (),
                created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                export_s=export_s,
                **{
                    **draft.model_dump(exclude={"files", "graph", "graph_is_exact"}),
                    "versions": {"stmdeploy": version("stmdeploy"), **draft.versions},
                },
            ).sealed()
            return publish_artifact(scratch, manifest, spec.folder)

    def _module(self) -> nn.Module:
        """The module that is exported."""
        if self.spec.dynamic_size:
            return self.built.of_any_size()
        return lower(self.built.module, self.form, self.spec.model.image_size)

    def _checked(self, scratch: Path, draft: Draft) -> tuple[Verification, Fidelity | None]:
        """Compares the outputs of the written files with those of the module in float64."""
        reference, size = _reference(self.built, self.spec), self.spec.model.image_size
        files = _Written(self.exporter, self.spec, draft, scratch)
        verification = files.verified(reference.known, size)
        if self.images.judging is None:
            return verification, None
        batch = images_at_once(size)
        if draft.engine and not draft.not_run:
            batch = min(max(batch, draft.engine.batch[0]), draft.engine.batch[2])
        return verification, fidelity(files.load, reference, self.images, files.explain, batch)

    def _sizes(self, scratch: Path, draft: Draft) -> DynamicSize | None:
        """The sizes that an artifact of dynamic size takes, once some of them are verified."""
        spec, found = self.spec, []
        if not spec.dynamic_size:
            return None
        files = _Written(self.exporter, spec, draft, scratch)
        names = [output.name for output in self.built.outputs()]
        for size in further_sizes(spec.sizes):
            self.tell(f"verifying at {size[0]}x{size[1]}")
            known = Reference(self.built.at(size), names, size).known
            done = files.verified(known, size)
            found.append(
                VerifiedSize(
                    image_size=size,
                    relative_l2_error=done.relative_l2_error,
                    row_dependence=done.row_dependence,
                )
            )
        sizes = spec.sizes
        return DynamicSize(
            least=sizes.least, most=sizes.most, step=sizes.step, verified=tuple(found)
        )


@dataclass(frozen=True)
class _Written:
    """The files of a draft, as they are verified."""

    exporter: Exporter
    spec: ExportSpec
    draft: Draft
    folder: Path

    @property
    def main(self) -> Path:
        return self.folder / self.draft.files[0]

    def load(self, batch: int) -> Runner:
        """A runner for a batch."""
        target, precision = self.exporter.target, self.spec.precision
        run = RunSpec(target.runtimes[0], batch, available_threads(), precision=precision)
        model = self.spec.model
        return draft_runner(self.exporter, self.main, self.draft, run, lambda: build_module(model))

    def explain(self, images: Array) -> str:
        """Where outputs that are not finite come from; empty if the exporter cannot tell."""
        if isinstance(self.exporter, Diagnosis):
            return self.exporter.explain(self.main, self.draft, images)
        return ""

    def verified(self, known: KnownOutputs, image_size: tuple[int, int]) -> Verification:
        """Compares their outputs with the module's in float64; raises as `verify`."""
        precision = self.spec.precision
        return verify(
            self.load,
            known,
            image_size,
            precision,
            self.exporter.target.tolerances[precision],
            self.explain,
            verified_batches(self.draft),
        )


#: The latest reference, by its model and weights: it serves every target and precision.
_references: dict[object, Reference] = {}


def _reference(built: BuiltModel, spec: ExportSpec) -> Reference:
    key = (spec.model, built.info.weights.sha256)
    if key not in _references:
        _references.clear()
        names = [output.name for output in built.outputs()]
        _references[key] = Reference(built.module, names, spec.model.image_size)
    return _references[key]
