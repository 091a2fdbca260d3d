"""What a file may make a command do: nothing, unless the command line names it or says --trust.

A stored sweep, a baseline, a sweep file or a manifest may name programs (interpreters, modules,
compiled artifacts), addresses to fetch from and files elsewhere. Reading such a file reads data
only; using what it names must be allowed on the command line.
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

#: Suffixes of artifacts that are programs: loading them runs code that they hold.
PROGRAMS = frozenset({".pt2", ".engine", ".rtx.engine"})


@dataclass(frozen=True)
class Wish:
    """A program, address or file that a file names, used only if that is allowed.

    Attributes:
        would: what using it does, as errors say it: ``to run Python code``.
        value: its name in the file.
        flag: the flag that names the same on a command line; empty for none.
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
        has_flags: whether the command takes the flags of the wishes.
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
    """What a sweep names beyond catalogue models and random images."""
    for model in spec.models:
        yield from wishes_of_model(model)
    for run in spec.runs:
        yield from wishes_of_run(run)
    if spec.calibration.folder is not None:
        yield Wish("to read images of a folder", str(spec.calibration.folder), "--calibration")
    yield from _of_engine(spec.engine)


def needs_trust(spec: SweepSpec) -> bool:
    """Whether resuming a sweep, once it is stored, takes ``--trust``."""
    compiled = any(exporter_of(run.runtime).target.suffix in PROGRAMS for run in spec.runs)
    return compiled or any(True for _ in wishes_of_sweep(spec))


def wishes_of_model(model: ModelSpec) -> Iterator[Wish]:
    """The module to import, and the checkpoint or file to fetch or read, if any."""
    if model.is_custom:
        yield Wish("to run Python code", model.name, "--model")
    if model.checkpoint is not None:
        fetched = "://" in model.checkpoint or model.checkpoint == "official"
        would = "to fetch a checkpoint" if fetched else "to read a checkpoint"
        yield Wish(would, model.checkpoint, "--checkpoint")
    if model.file is not None:
        yield Wish("to read a file", str(model.file.path))


def wishes_of_run(run: RunSpec) -> Iterator[Wish]:
    """The interpreter to start and the timing cache to read and write, if any."""
    if run.python:
        yield Wish("to start a program", run.python, "--python")
    yield from _of_engine(run.settings.engine)


def _of_engine(engine: EngineSpec) -> Iterator[Wish]:
    if engine.timing_cache is not None:
        yield Wish("to read and write a file", str(engine.timing_cache), "--timing-cache-file")


def wishes_of_artifact(path: Path, exporter: Exporter) -> Iterator[Wish]:
    """The artifact itself if it is compiled, and thus a program, whatever its file is called.

    Args:
        exporter: the exporter whose runtime is to run it.
    """
    if exporter.target.suffix in PROGRAMS or path.suffix in PROGRAMS:
        yield Wish("to run compiled code", str(path))
