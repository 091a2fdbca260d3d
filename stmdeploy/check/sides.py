"""Finds the artifact to compare with each row, and makes the sides of a comparison."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from stmdeploy.check.bundle import BaselineRow, Bundle, is_bundle, open_bundle
from stmdeploy.check.side_by_side import Side
from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import DOCUMENT_MIB, parse_json, read_bytes
from stmdeploy.files.writing import scratch_folder
from stmdeploy.plugins.progress import Silent
from stmdeploy.plugins.registry import exporter_for_runtime
from stmdeploy.schema.artifact import Artifact, manifest_path, read_artifact
from stmdeploy.schema.manifest import Manifest
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import EXPORT_TIMEOUT_S, RunSpec
from stmdeploy.worker.exports import export_alone
from stmdeploy.worker.jobs.job import without_checkpoint
from stmdeploy.worker.jobs.turns import TurnsJob


@dataclass(frozen=True)
class Contender:
    """An artifact to compare, and the interpreter that runs it; empty for this one."""

    artifact: Artifact
    python: str = ""

    def side(self, model: ModelSpec, run: RunSpec) -> Side:
        """What its workers run."""
        job = TurnsJob(
            artifact=self.artifact.path.resolve(),
            model=without_checkpoint(model),
            run=replace(run, python=""),
        )
        return Side(job, self.python)


def find_candidates(
    path: Path, rows: Iterable[BaselineRow], stack: ExitStack
) -> dict[str, Artifact]:
    """The artifact to compare with each row, by the row's name.

    Args:
        path: another baseline, a folder of artifacts, one artifact, or a file from elsewhere.
        stack: keeps an unpacked baseline until it is closed.

    Raises:
        StmdeployError: nothing is there, or a row has no artifact there, or several.
    """
    if is_bundle(path):
        return _of_bundle(stack.enter_context(open_bundle(path)), path, rows)
    if path.is_file() and not manifest_path(path).exists():
        return {row.name: _taken(path, row, stack) for row in rows}
    if path.is_dir():
        beside = sorted(path.rglob("*.json"))
        artifacts = [read_artifact(one.with_suffix("")) for one in beside if is_manifest(one)]
    else:
        artifacts = [read_artifact(path)]
    if not artifacts:
        raise StmdeployError(
            f"{path} holds no artifacts", f"write some: stmdeploy export --out {path}"
        )
    return {row.name: _fitting(artifacts, row, path) for row in rows}


def _taken(path: Path, row: BaselineRow, stack: ExitStack) -> Artifact:
    """A file that was made elsewhere, as an artifact for a row of such a file."""
    model, run = row.row_spec.model, row.row_spec.run
    if model.file is None:
        return read_artifact(path)  # which says that it has no manifest
    file = replace(model.file, path=path, ways=((run.runtime, run.precision),))
    folder = stack.enter_context(scratch_folder("candidate"))
    taken = replace(model, name=path.name, file=file)
    target = exporter_for_runtime(run.runtime).target.name
    export = ExportSpec(
        taken, target, folder, run.precision, engine=run.settings.engine.for_batch(run.batch)
    )
    return read_artifact(export_alone(export, EXPORT_TIMEOUT_S, Silent()))


def _of_bundle(bundle: Bundle, path: Path, rows: Iterable[BaselineRow]) -> dict[str, Artifact]:
    theirs = {row.name: row for row in bundle.baseline.rows}
    found = {}
    for row in rows:
        if row.name not in theirs:
            raise StmdeployError(
                f"{path} has no row {row.name!r}", f"its rows are: {', '.join(theirs)}"
            )
        found[row.name] = bundle.artifact(theirs[row.name].artifact)
    return found


def is_manifest(path: Path) -> bool:
    """Whether a JSON file is an artifact's manifest; never raises StmdeployError."""
    try:
        document = parse_json(read_bytes(path, "", "", DOCUMENT_MIB), str(path), "")
    except StmdeployError:
        return False
    return isinstance(document, dict) and document.get("kind") == "stmdeploy-artifact"


def _fitting(artifacts: list[Artifact], row: BaselineRow, path: Path) -> Artifact:
    """The only artifact of the row's model in its precision and for its runtime."""
    spec = row.row_spec
    target = exporter_for_runtime(spec.run.runtime).target.name
    wanted = (spec.model.name, spec.run.precision, target)
    found = [
        one
        for one in artifacts
        if (one.manifest.model.name, one.manifest.precision, one.manifest.target) == wanted
    ]
    same_size = [one for one in found if one.manifest.model.image_size == spec.model.image_size]
    found = same_size or found
    if len(found) != 1:
        many = f"{len(found)} artifacts" if found else "no artifact"
        raise StmdeployError(
            f"{path} has {many} of {spec.model.name} in {spec.run.precision} for {target}; "
            f"row {row.name} needs exactly one",
            "name a folder with one artifact for each row, or the artifact itself",
        )
    return found[0]


def check_shapes(name: str, baseline: Manifest, candidate: Manifest) -> None:
    """Raises StmdeployError if the two differ in the names, types or shapes of input or output."""
    for what, then, now in (
        ("input", baseline.inputs, candidate.inputs),
        ("output", baseline.outputs, candidate.outputs),
    ):
        if then != now:
            told = [
                ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in side)
                for side in (then, now)
            ]
            raise StmdeployError(
                f"{name}: the candidate's {what} is {told[1]}, the baseline's {told[0]}",
                "compare models of the same shapes, or run stmdeploy baseline create again",
            )
