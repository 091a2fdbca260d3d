"""Processors as their datasheets describe them: ``profiles/*.toml``, and a user's own."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.abc import Traversable
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    with_config,
)

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.files.places import config_folder
from stmdeploy.files.reading import first_problem, printable, read_toml
from stmdeploy.schema.document import PlainText
from stmdeploy.schema.hardware import MemoryLevel, Peaks, Rate
from stmdeploy.spec.export import MAX_BATCH, PRECISIONS

#: The variable that lists folders of a user's own profiles, as PATH lists folders of programs.
FOLDERS_VARIABLE = "STMDEPLOY_PROFILES"
_SUFFIX = ".toml"
#: The only profile that is not a GPU's.
CPU = "cpu"


def _known_precision(name: str) -> str:
    if name not in PRECISIONS:
        raise ValueError(f"not one of {', '.join(PRECISIONS)}")
    return name


_Figure = Annotated[float, Field(gt=0, lt=1e9)]
_Precision = Annotated[str, AfterValidator(_known_precision)]


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True)
class Profile:
    """A processor as its datasheet describes it.

    Attributes:
        name: what ``--gpu`` takes.
        title: the variant that the figures describe.
        names: what NVML calls it and its near variants.
        accelerator_type: what Ray calls nodes that have it; several profiles may share one.
        families: other names for ``--gpu``, which several profiles may share.
        compute_capability: such as ``8.0``.
        memory_gb, bandwidth_gb_s, l2_mb, tdp_w: memory, its bandwidth, last-level cache, power.
        batches, precisions: what is measured on it by default.
        peak_tflops: peak of the plain cores by precision; multiply and add count as two.
        tensor_tflops: peak of the tensor cores by precision, dense, counted alike.
        source: the datasheet; ``sources`` names others, by the figure that is taken from them.
    """

    name: PlainText
    title: PlainText
    names: Annotated[tuple[PlainText, ...], Field(min_length=1)]
    compute_capability: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]$")]
    memory_gb: _Figure
    bandwidth_gb_s: _Figure
    l2_mb: _Figure
    tdp_w: _Figure
    batches: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_BATCH)], ...], Field(min_length=1)]
    precisions: Annotated[tuple[_Precision, ...], Field(min_length=1)]
    peak_tflops: dict[PlainText, _Figure]
    source: PlainText
    accelerator_type: PlainText = ""
    families: tuple[PlainText, ...] = ()
    tensor_tflops: dict[PlainText, _Figure] | None = None
    sources: dict[PlainText, PlainText] | None = None

    def fits(self, reported: str) -> bool:
        """Whether `names` has the driver's name of a GPU."""
        return reported.strip().lower() in {name.lower() for name in self.names}


@dataclass(frozen=True)
class CpuProfile:
    """What is measured on this machine's own processor by default."""

    title: str
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    source: str


@cache
def cpu_profile() -> CpuProfile:
    """The profile ``cpu``: it has no figures, because they are measured."""
    text = resources.files("stmdeploy.profiles").joinpath(CPU + _SUFFIX).read_text("utf-8")
    return TypeAdapter(CpuProfile).validate_python(tomllib.loads(text))


def peaks_of(profile: Profile) -> Peaks:
    """A datasheet's figures, as the roofline bound reads them.

    float32 runs on plain cores (TensorFloat-32 is off), lower precisions on whichever cores are
    faster. Bytes in the last-level cache cost nothing: no datasheet gives its bandwidth.
    """
    tensor = profile.tensor_tflops or {}
    rates = [
        Rate(precision=precision, tflops=tflops, by=cores)
        for cores, table in (("plain cores", profile.peak_tflops), ("tensor cores", tensor))
        for precision, tflops in table.items()
        if precision in PRECISIONS
    ]
    return Peaks(
        kind="datasheet",
        source=profile.source,
        rates=tuple(rates),
        memory=(
            MemoryLevel(up_to_mib=profile.l2_mb, gb_s=None),
            MemoryLevel(up_to_mib=None, gb_s=profile.bandwidth_gb_s),
        ),
    )


@cache
def profiles() -> dict[str, Profile]:
    """Every known GPU by name; a user's own profile replaces one of the same name.

    Raises:
        StmdeployError: one of the user's own profiles cannot be read.
    """
    files = (*resources.files("stmdeploy.profiles").iterdir(), *_own_files())
    found = [_read(f) for f in files if f.name.endswith(_SUFFIX) and f.name != CPU + _SUFFIX]
    return {profile.name: profile for profile in sorted(found, key=lambda p: p.name)}


def _own_files() -> Iterator[Path]:
    folders = []
    with suppress(StmdeployError):  # there is no home folder
        folders.append(config_folder() / "profiles")
    folders += [Path(p) for p in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if p]
    for folder in folders:
        if folder.is_dir():
            yield from sorted(folder.iterdir())


def _read(file: Traversable) -> Profile:
    hint = "correct the file, or remove it"
    table = (
        read_toml(file, "profile", hint)
        if isinstance(file, Path)
        else tomllib.loads(file.read_text("utf-8"))
    )
    table["name"] = file.name.removesuffix(_SUFFIX)
    try:
        return TypeAdapter(Profile).validate_python(table)
    except ValidationError as error:
        where = f"profile {printable(str(file))}"
        raise StmdeployError(f"{where} is wrong {first_problem(error)}", hint) from error


def profile_of(reported: str) -> Profile | None:
    """The profile that fits the driver's name of a GPU; None if none does."""
    return next((profile for profile in profiles().values() if profile.fits(reported)), None)


def find_profiles(name: str) -> tuple[Profile, ...]:
    """The profiles that a name means: one, or those of a family.

    Raises:
        StmdeployError: unknown name.
    """
    key = _key(name)
    if key == CPU:
        raise StmdeployError("cpu is not a GPU", "leave --gpu out to measure the CPU")
    exact = tuple(profile for profile in profiles().values() if _key(profile.name) == key)
    found = exact or tuple(p for p in profiles().values() if key in map(_key, p.families))
    if not found:
        raise StmdeployError(f"unknown GPU {name!r}", nearest(name.strip(), known_names()))
    return found


def known_names() -> Iterable[str]:
    """What ``--gpu`` takes: profiles and families."""
    families = (family for profile in profiles().values() for family in profile.families)
    return dict.fromkeys([*profiles(), *families])


def _key(name: str) -> str:
    """``RTX 4090``, ``rtx-4090`` and ``rtx4090`` are one name."""
    return "".join(name.lower().replace("-", " ").split())
