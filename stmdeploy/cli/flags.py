"""What a sweep is asked for: the flags of `profile`, or a TOML file that names them.

A file's keys are the flags without dashes (``image_size = [224, 448]``); a flag on the command
line is stronger than the file. A list takes one value or several.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from stmdeploy.cli.devices import devices_here, devices_of_cluster
from stmdeploy.cli.options import numbers, words
from stmdeploy.cli.requests import engine_spec, model_specs, run_specs
from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.reading import printable, read_toml
from stmdeploy.spec import (
    LOOP,
    SCENARIOS,
    CalibrationSpec,
    RunSettings,
    SamplingSpec,
    ScenarioSpec,
)
from stmdeploy.sweep import SweepSpec
from stmdeploy.trust import Wish, refuse_wishes

#: Runtimes whose lowered forms were made, and measured, for the CPU alone.
_CPU_FORMS = frozenset({"onnxruntime", "torch", "torch-compile"})


@dataclass(frozen=True)
class SweepFlags:
    """The flags as given; None where one is not."""

    stm: list[str] | None = None
    scale: list[str] | None = None
    model: list[str] | None = None
    image_size: list[str] | None = None
    num_classes: int | None = None
    checkpoint: str | None = None
    batch: list[str] | None = None
    runtime: list[str] | None = None
    precision: list[str] | None = None
    calibration: Path | None = None
    calibration_images: int | None = None
    threads: list[str] | None = None
    in_flight: list[str] | None = None
    scenario: list[str] | None = None
    scenario_duration_s: float | None = None
    target_latency_ms: float | None = None
    python: list[str] | None = None
    lowering: str | None = None
    gpu: list[str] | None = None
    nodes: list[str] | None = None
    provider: str | None = None
    hint: str | None = None
    use_cuda_graph: bool | None = None
    workspace_mib: int | None = None
    builder_optimization_level: int | None = None
    timing_cache_file: Path | None = None
    compute_capability: list[str] | None = None
    budget_s: float | None = None
    processes: int | None = None
    interval_percent: float | None = None
    warmup_limit_s: float | None = None
    row_timeout_s: float | None = None
    export_timeout_s: float | None = None
    memory_limit_mib: int | None = None
    smaller_batch: bool | None = None
    explain: bool | None = None

    def over(self, other: SweepFlags) -> SweepFlags:
        """These flags, and where one is not given, the other's."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(other, **{name: value for name, value in given.items() if value is not None})


def with_file(flags: SweepFlags, path: Path, *, trust: bool) -> SweepFlags:
    """Flags, and where one is not given, what a TOML file says.

    Raises:
        StmdeployError: as `read_flags`; or the file names a program, an address or a folder to be
            used, and is not trusted.
    """
    read = read_flags(path)
    used = flags.over(read)
    wishes = [
        Wish(would, ", ".join(value) if isinstance(value, list) else str(value), flag)
        for name, flag, would in _NAMED_BY_FLAG
        if (value := getattr(used, name)) is not None and getattr(flags, name) is None
    ]
    refuse_wishes(wishes, f"--sweep {path}", trust=trust, has_flags=True)
    return used


#: Fields of a sweep file that make the command do more than build a backbone of the catalogue.
_NAMED_BY_FLAG = (
    ("model", "--model", "to run Python code"),
    ("python", "--python", "to start a program"),
    ("checkpoint", "--checkpoint", "to read or fetch a checkpoint"),
    ("calibration", "--calibration", "to read images of a folder"),
    ("timing_cache_file", "--timing-cache-file", "to read and write a file"),
)


def read_flags(path: Path) -> SweepFlags:
    """The flags in a TOML file.

    Raises:
        StmdeployError: no such file, no TOML, an unknown key, or a value of another kind.
    """
    table = read_toml(path, "--sweep", "give a TOML file: see the README")
    kinds = get_type_hints(SweepFlags)
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in kinds:
            shown = printable(key)[:60]
            raise StmdeployError(f"{path}: unknown key {shown!r}", nearest(name[:60], kinds))
        values[name] = _as_kind(kinds[name], value, f"{path}: {key}")
    return SweepFlags(**values)


def _as_kind(kind: Any, value: Any, where: str) -> Any:
    """A TOML value as what a flag takes."""
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and text != printable(text) for text in texts):
        raise StmdeployError(f"{where} holds control characters", "write it as the flag takes it")
    if kind == list[str] | None:
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in items):
            return [str(item) for item in items]
    elif kind == Path | None and isinstance(value, str):
        return Path(value)
    elif type(value) in (bool, str) and kind == type(value) | None:
        return value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if kind == float | None:
            return float(value)
        if kind == int | None and isinstance(value, int):
            return value
    shown = printable(repr(value))[:60]
    raise StmdeployError(f"{where} = {shown} is not understood", "write it as the flag takes it")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def sweep_spec(flags: SweepFlags, *, on_cluster: bool = False) -> SweepSpec:
    """What the flags ask for, checked. A GPU's profile has batches and precisions of its own.

    Args:
        on_cluster: whether ``--gpu`` and ``--nodes`` are kinds of a cluster's nodes, instead of
            what this machine has.

    Raises:
        StmdeployError: as `devices_here`, `devices_of_cluster`, `model_specs` and the specs
            themselves.
    """
    gpus, kinds = words(flags.gpu), words(flags.nodes)
    find = devices_of_cluster if on_cluster else devices_here
    devices = find(gpus, kinds, flags.threads is not None)
    batches = numbers(flags.batch, "--batch") or list(devices.batches)
    precisions = words(flags.precision) or list(devices.precisions)
    runtimes = words(flags.runtime) or ["onnxruntime"]
    engine = engine_spec(
        [f"{min(batches)},{max(batches)},{max(batches)}"],
        flags.workspace_mib,
        flags.builder_optimization_level,
        flags.timing_cache_file,
        words(flags.compute_capability),
    )
    settings = RunSettings(
        engine=engine,
        **_given(provider=flags.provider, hint=flags.hint, cuda_graph=flags.use_cuda_graph),
    )
    reference = bool(gpus) and not kinds and set(runtimes) <= _CPU_FORMS
    return SweepSpec(
        models=model_specs(
            stm=flags.stm,
            scale=flags.scale,
            model=flags.model,
            image_size=flags.image_size,
            checkpoint=flags.checkpoint,
            default_scale="tiny" if words(flags.stm) else "micro",
            num_classes=flags.num_classes,
        ),
        runs=run_specs(
            runtimes,
            batches,
            numbers(flags.threads, "--threads") or list(devices.threads),
            devices.places,
            settings,
            in_flight=numbers(flags.in_flight, "--in-flight"),
            scenarios=_scenarios(flags),
            pythons=words(flags.python),
        ),
        precisions=tuple(precisions),
        sampling=SamplingSpec(
            **_given(
                budget_s=flags.budget_s,
                processes=flags.processes,
                target_half_width_percent=flags.interval_percent,
                warmup_limit_s=flags.warmup_limit_s,
            )
        ),
        lowering=flags.lowering or ("reference" if reference else None),
        calibration=CalibrationSpec(flags.calibration, **_given(images=flags.calibration_images)),
        engine=engine,
        **_given(
            row_timeout_s=flags.row_timeout_s,
            export_timeout_s=flags.export_timeout_s,
            memory_limit_mib=flags.memory_limit_mib,
            smaller_batch=flags.smaller_batch,
            explain=flags.explain,
        ),
    )


def _scenarios(flags: SweepFlags) -> list[ScenarioSpec]:
    """The scenarios by their names, in MLPerf's spelling too."""
    known = {name.replace("-", ""): name for name in SCENARIOS}
    names = [
        known.get(word.lower().replace("-", "").replace("_", ""), word)
        for word in words(flags.scenario) or [LOOP]
    ]
    return [
        ScenarioSpec(
            name,
            target_latency_ms=flags.target_latency_ms if name == "server" else None,
            **_given(duration_s=flags.scenario_duration_s),
        )
        for name in names
    ]
