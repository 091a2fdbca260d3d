"""Files that somebody made elsewhere, as the models of a command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.cli.command import Words, many
from stmdeploy.cli.options import MODEL
from stmdeploy.errors import StmdeployError
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import (
    CLASSIFICATION,
    DEFAULT_SIZES,
    FileSpec,
    InputSpec,
    ModelSpec,
    parse_input,
)

if TYPE_CHECKING:
    from stmdeploy.plugins.progress import Progress
    from stmdeploy.schema.outside import FileFacts

#: Seconds that reading or converting a file may take.
TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class InputOption:
    """What a file leaves open."""

    input: Words = many(
        MODEL,
        "An input of FILE that leaves dimensions open, as NAME:1x3x224x224 or NAME:1x10:int64. "
        "[default: as the file says; the first open dimension is the batch]",
    )


def file_models(
    paths: Sequence[Path],
    inputs: Words,
    runtimes: Words,
    precisions: Words,
    progress: Progress,
    *,
    every: bool = False,
) -> tuple[ModelSpec, ...]:
    """The models that files are, each read in a worker.

    Args:
        inputs: values of ``--input``; each must be of an input that every file has.
        runtimes, precisions: those asked for; empty for the usual ones of each file.
        every: whether those that are not asked for are all that there are.

    Raises:
        StmdeployError: a file cannot be read, or leaves something open.
    """
    given, names = tuple(parse_input(one) for one in inputs), _names(paths)
    found = []
    for path in dict.fromkeys(paths):
        progress.expect(1)
        facts = _facts(path, given, progress)
        ways = _ways(path, facts, runtimes, precisions, every=every)
        file = FileSpec(path, ways, given, facts.batch)
        size = facts.model.image_size or DEFAULT_SIZES[CLASSIFICATION]
        found.append(ModelSpec(names[path], size, facts.model.num_classes, file=file))
    return tuple(found)


def _facts(path: Path, given: tuple[InputSpec, ...], progress: Progress) -> FileFacts:
    from stmdeploy.worker.client import run_job
    from stmdeploy.worker.jobs.outside import LookJob

    return run_job(LookJob(path=path, inputs=given), {}, TIMEOUT_S, progress)


def _ways(
    path: Path, facts: FileFacts, runtimes: Words, precisions: Words, *, every: bool
) -> tuple[tuple[str, str], ...]:
    """The ways of running a file that are asked for; raises StmdeployError if there is none."""
    known = dict.fromkeys(runtime for runtime, _ in facts.ways)
    asked_of = runtimes or (known if every else facts.ways[0][:1])
    wanted = [way for way in facts.ways if way[0] in asked_of]
    if precisions:
        wanted = [way for way in wanted if way[1] in precisions]
    elif not every:
        first = dict(reversed(wanted))
        wanted = [way for way in wanted if first[way[0]] == way[1]]
    if not wanted:
        able = ", ".join(f"{runtime} in {precision}" for runtime, precision in facts.ways)
        asked = " and ".join(filter(None, (", ".join(runtimes), ", ".join(precisions))))
        raise StmdeployError(f"{path.name} does not run on {asked}", f"it runs on: {able}")
    return tuple(wanted)


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """What files are called: by their names, or with folders where two share one."""
    alike = Counter(path.name for path in dict.fromkeys(paths))
    return {path: path.name if alike[path.name] == 1 else str(path) for path in paths}


@contextmanager
def as_artifacts(
    paths: Sequence[Path], inputs: Words, runtime: str, progress: Progress
) -> Iterator[tuple[Path, ...]]:
    """Main files of artifacts: those that have a manifest, and artifacts made of the others, which
    are gone afterwards.

    Raises:
        StmdeployError: as `file_models`; or a file cannot be taken.
    """
    from stmdeploy.files.writing import scratch_folder
    from stmdeploy.schema.artifact import manifest_path

    with ExitStack() as stack:
        found = []
        for path in paths:
            if path.is_dir() or manifest_path(path).exists() or not path.exists():
                found.append(path)  # reading it says what is wrong with it
                continue
            folder = stack.enter_context(scratch_folder("outside"))
            found.append(taken(path, inputs, runtime, folder, progress))
        yield tuple(found)


def taken(path: Path, inputs: Words, runtime: str, folder: Path, progress: Progress) -> Path:
    """Makes an artifact of a file in a folder, and gives its main file; raises as `file_models`."""
    from stmdeploy.plugins.registry import exporter_for_runtime
    from stmdeploy.worker.exports import export_alone

    (model,) = file_models([path], inputs, (runtime,) if runtime else (), (), progress)
    assert model.file is not None
    way, precision = model.file.ways[0]
    target = exporter_for_runtime(way).target.name
    return export_alone(ExportSpec(model, target, folder, precision), TIMEOUT_S, progress)
