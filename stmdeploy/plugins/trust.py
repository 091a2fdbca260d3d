"""What a file may make a command do: nothing, unless the command line names it or says --trust.

A stored sweep, a baseline, a sweep file or a manifest may name programs (interpreters, modules,
compiled artifacts), addresses to fetch from and files that lie elsewhere. To read such a file is
to read data; whoever wants what it names to be used says so in this very call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import printable
from stmdeploy.plugins.exporter import Exporter
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.sweep import SweepSpec

#: Artifacts that are programs: what loads them runs what is in them.
PROGRAMS = frozenset({".pt2", ".engine", ".rtx.engine"})


@dataclass(frozen=True)
class Wish:
    """Something that a file names and that is used only if it is allowed.

    Attributes:
        would: what its use would do, as errors say it.
        value: the name, as the file has it.
        flag: what names the same on a command line.
    """

    would: str
    value: str
    flag: str = ""


def refuse_wishes(
    wishes: Iterable[Wish], where: str, *, trust: bool, has_flags: bool = False
) -> None:
    """Raises StmdeployError for the first wish of a file, unless it is trusted.

    Args:
        where: the file, as errors name it.
        trust: whether ``--trust`` was given.
        has_flags: whether the command line can name the same itself.
    """
    for wish in wishes:
        if trust:
            return
        named = f"name it by {wish.flag}, or " if has_flags and wish.flag else ""
        raise StmdeployError(
            f"{printable(where)} wants {wish.would}: {printable(wish.value)[:200]}",
            f"if that is what you want, {named}add --trust",
        )


def wishes_of_sweep(spec: SweepSpec) -> Iterator[Wish]:
    """What a sweep names beyond the catalogue and the images that are made here."""
    for model in spec.models:
        yield from wishes_of_model(model)
    for run in spec.runs:
        yield from wishes_of_run(run)
    if spec.calibration.folder is not None:
        yield Wish("to read images of a folder", str(spec.calibration.folder), "--calibration")
    yield from _of_engine(spec.engine)


def needs_trust(spec: SweepSpec) -> bool:
    """Whether going on with a sweep, once it is stored, takes ``--trust``."""
    compiled = any(exporter_of(run.runtime).target.suffix in PROGRAMS for run in spec.runs)
    return compiled or any(True for _ in wishes_of_sweep(spec))


def wishes_of_model(model: ModelSpec) -> Iterator[Wish]:
    """A module to import, or a checkpoint to fetch or read."""
    if model.is_custom:
        yield Wish("to run Python code", model.name, "--model")
    if model.checkpoint is not None:
        fetched = "://" in model.checkpoint or model.checkpoint == "official"
        would = "to fetch a checkpoint" if fetched else "to read a checkpoint"
        yield Wish(would, model.checkpoint, "--checkpoint")


def wishes_of_run(run: RunSpec) -> Iterator[Wish]:
    """An interpreter to start, or a timing cache to read and write."""
    if run.python:
        yield Wish("to start a program", run.python, "--python")
    yield from _of_engine(run.settings.engine)


def _of_engine(engine: EngineSpec) -> Iterator[Wish]:
    if engine.timing_cache is not None:
        yield Wish("to read and write a file", str(engine.timing_cache), "--timing-cache-file")


def wishes_of_artifact(path: Path, exporter: Exporter) -> Iterator[Wish]:
    """A compiled artifact, which is a program, whatever its file is called.

    Args:
        exporter: of the runtime that is to run it.
    """
    if exporter.target.suffix in PROGRAMS or path.suffix in PROGRAMS:
        yield Wish("to run compiled code", str(path))
