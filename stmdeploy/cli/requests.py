"""From options to specs: names resolved, sizes checked, before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stmdeploy.backbones.catalogue import check_model, list_backbones, resolve
from stmdeploy.cli.devices import Devices, devices_here, devices_of_cluster
from stmdeploy.cli.options import (
    CheckpointOption,
    EngineOptions,
    ImagesOptions,
    LimitOptions,
    ModelOptions,
    PreparationOptions,
    StoreOptions,
    SweepOptions,
    TrialOptions,
)
from stmdeploy.cluster.planning import ClusterSpec
from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.hardware.gpus import find_gpu
from stmdeploy.hardware.machine import available_threads
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.results.state import SweepInfo
from stmdeploy.results.store import Store
from stmdeploy.schema.row import Row
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.export import PRECISIONS, CalibrationSpec, EngineSpec, ExportSpec
from stmdeploy.spec.fidelity import FidelityLimits
from stmdeploy.spec.model import (
    CLASSIFICATION,
    DEFAULT_CLASSES,
    DEFAULT_SIZES,
    DETECTION,
    TASKS,
    ModelSpec,
    parse_image_size,
)
from stmdeploy.spec.preparation import Prepared, parse_channels
from stmdeploy.spec.run import LOOP, SCENARIOS, RunSettings, RunSpec, SamplingSpec, ScenarioSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.spec.trials import TrialSpec

#: The five spatial token mixers of the paper.
FIVE_STMS = ("halo", "pvt", "swin", "convnext", "dcn")
#: On a GPU, of the batches that its profile names.
_LARGEST_DETECTION_BATCH = 8


def model_specs(
    options: ModelOptions, *, default_scale: str = "tiny", all_scales: bool = False
) -> tuple[ModelSpec, ...]:
    """Every combination of model and image size asked for; by default of the five STMs.

    Raises:
        StmdeployError: an unknown name, scale or task, a size or task that a mixer cannot take, or
            one checkpoint file for several models.
    """
    stms = options.stm or (() if options.model else FIVE_STMS)
    every = all_scales or options.scale == ("all",)
    names = [
        name
        for stm in stms
        for name in (_all_scales(stm) if every else _official_names(stm, options, default_scale))
    ]
    for custom in options.model:
        if ":" not in custom:
            raise StmdeployError(
                f"--model {custom} is not understood", "write package.module:callable or timm:NAME"
            )
    checkpoint = options.checkpoint if isinstance(options, CheckpointOption) else None
    count = len(names) + len(options.model)
    if checkpoint not in (None, "official") and count > 1:
        raise StmdeployError(
            f"--checkpoint {checkpoint} cannot fit {count} models",
            "give one --stm and one --scale",
        )
    if options.output is not None and not options.model:
        raise StmdeployError("--output is of a model of your own", "give --model too")
    task = check_task(options.task) or CLASSIFICATION
    # A model of the user's keeps its own number of classes unless one is given.
    usual = DEFAULT_CLASSES if task == CLASSIFICATION else None
    wanted = usual if options.num_classes is None else options.num_classes
    classes: dict[str, int | None] = {**dict.fromkeys(names, wanted)}
    classes |= dict.fromkeys(options.model, options.num_classes)
    sizes = [parse_image_size(text) for text in options.image_size] or [DEFAULT_SIZES[task]]
    specs = tuple(
        ModelSpec(
            name, size, number, checkpoint, task=task, neck=options.neck or "",
            output=(options.output or "") if name in options.model else "",
        )
        for name, number in classes.items()
        for size in sizes
    )  # fmt: skip
    for spec in specs:
        if not spec.is_custom:
            check_model(resolve(spec.name), spec.task, spec.image_size)
    return specs


def check_task(word: str | None) -> str | None:
    """The task that a flag names, if it is given; raises StmdeployError for an unknown one."""
    if word is not None and word not in TASKS:
        raise StmdeployError(f"unknown task {word!r}", nearest(word, TASKS))
    return word


def _official_names(stm: str, options: ModelOptions, default_scale: str) -> list[str]:
    """The backbones of one ``--stm``; an official name is one, whatever the other scales."""
    if stm.lower() in list_backbones():
        return [resolve(stm, options.scale[0] if len(options.scale) == 1 else None).name]
    if stm.lower().startswith("official_"):
        return [resolve(stm).name]
    return [resolve(stm, one).name for one in options.scale or (default_scale,)]


def _all_scales(stm: str) -> list[str]:
    """The official names of one STM, smallest first."""
    wanted = resolve(stm, "micro").stm
    configs = [resolve(name) for name in list_backbones() if not name.startswith("official_")]
    return [config.name for config in configs if config.stm == wanted]


def engine_spec(batches: Sequence[int], options: EngineOptions) -> EngineSpec:
    """What TensorRT's builder is told; a single batch is least, best and most in one.

    Raises:
        StmdeployError: not one batch or three growing ones, or a figure out of range.
    """
    if len(batches) not in (1, 3):
        raise StmdeployError(
            f"--batch {','.join(map(str, batches))} is not understood",
            "give one number, or three as MIN,OPT,MAX",
        )
    return EngineSpec(
        (batches[0], batches[len(batches) // 2], batches[-1]),
        options.workspace_mib,
        options.builder_optimization_level,
        options.timing_cache_file,
        options.compute_capability,
    )


def sweep_spec(
    options: SweepOptions, *, on_cluster: bool = False, files: tuple[ModelSpec, ...] = ()
) -> SweepSpec:
    """The sweep that options ask for; batches and precisions default to the hardware profile's.

    Args:
        files: files from outside that are measured, too; or alone, if no model is named.
        on_cluster: whether ``--gpu`` and ``--nodes`` name kinds of a cluster's nodes, instead of
            this machine's hardware.

    Raises:
        StmdeployError: as `devices_here`, `devices_of_cluster`, `model_specs` and the specs
            themselves.
    """
    if on_cluster:
        devices = devices_of_cluster(options.gpu, options.nodes, bool(options.threads))
    else:
        devices = devices_here(options.gpu, options.nodes)
    alone = bool(files) and not options.stm and not options.model
    batches = options.batch or _batches(devices, check_task(options.task), files, alone=alone)
    engine = engine_spec((min(batches), max(batches), max(batches)), options)
    if devices.too_old and "tensorrt" in (*(options.runtime or ()), options.provider):
        raise StmdeployError(
            f"TensorRT needs compute capability 7.5 or later; {devices.too_old}",
            "take --runtime torch, or onnxruntime with an older onnxruntime-gpu",
        )
    runs = _run_specs(options, devices, batches, engine, files, alone=alone)
    scale = "tiny" if options.stm else "micro"
    precisions = options.precision or devices.precisions
    return SweepSpec(
        models=(*files, *(() if alone else model_specs(options, default_scale=scale))),
        runs=runs,
        precisions=precisions,
        left_out=() if options.strict or alone else _left_out(runs, precisions),
        sampling=SamplingSpec(
            **_given(
                budget_s=options.budget_s,
                processes=options.processes,
                warmup_limit_s=options.warmup_limit_s,
            )
        ),
        lowering=options.lowering,
        calibration=calibration_spec(options.calibration, options.calibration_images),
        engine=engine,
        **_given(
            row_timeout_s=options.row_timeout_s,
            export_timeout_s=options.export_timeout_s,
            memory_limit_mib=options.memory_limit_mib,
            smaller_batch=options.smaller_batch,
            explain=options.explain,
            reference=options.reference,
            repeats=options.repeats,
        ),
    )


def _batches(
    devices: Devices, task: str | None, files: Sequence[ModelSpec], *, alone: bool
) -> tuple[int, ...]:
    """The usual ones, and those that files are for that take no others."""
    fixed = [one.file.batch for one in files if one.file is not None and one.file.batch]
    usual = () if alone and len(fixed) == len(files) else _usual_batches(devices, task)
    return tuple(dict.fromkeys((*usual, *fixed)))


def _left_out(runs: Sequence[RunSpec], precisions: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Runtimes with precisions that they do not have, unless nothing else was asked for."""
    every = [
        (runtime, precision)
        for runtime in dict.fromkeys(run.runtime for run in runs)
        for precision in precisions
    ]
    lacking = [
        (runtime, precision)
        for runtime, precision in every
        if precision in PRECISIONS and precision not in exporter_of(runtime).target.tolerances
    ]
    return tuple(lacking) if len(lacking) < len(every) else ()


def _usual_batches(devices: Devices, task: str | None) -> tuple[int, ...]:
    """Those of the hardware's profile; an image for detection is as large as twenty others, so that
    of them only the smaller ones remain."""
    if task != DETECTION:
        return devices.batches
    on_gpu = any(place.get("device") == "cuda" for place in devices.places)
    most = _LARGEST_DETECTION_BATCH if on_gpu else 1
    return tuple(batch for batch in devices.batches if batch <= most) or (1,)


def calibration_spec(folder: Path | None, images: int | None) -> CalibrationSpec:
    """The images that int8 is calibrated with; by default random ones."""
    return CalibrationSpec(folder, **_given(images=images))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _run_specs(
    options: SweepOptions,
    devices: Devices,
    batches: Sequence[int],
    engine: EngineSpec,
    files: Sequence[ModelSpec],
    *,
    alone: bool,
) -> tuple[RunSpec, ...]:
    """Every combination, place by place and runtime by runtime."""
    of_files = [one.file.ways[0][0] for one in files if one.file is not None]
    settings = RunSettings(
        engine=engine,
        **_given(
            provider=options.provider,
            hint=options.hint,
            cuda_graph=options.use_cuda_graph,
            cold_l2=options.cold_l2,
            clock_mhz=options.lock_clocks,
            torch_mode=options.torch_mode,
            channels_last=options.channels_last,
            spinning=options.spinning,
            flush_denormals=options.flush_denormals,
            graph_optimization=options.graph_optimization,
            inter_op_threads=options.inter_op_threads,
        ),
    )
    by_default = options.use_cuda_graph is None
    graph = replace(settings, cuda_graph=True, cuda_graph_optional=True) if by_default else settings
    return tuple(
        RunSpec(
            runtime,
            batch,
            count,
            **place,
            settings=graph if place.get("device") == "cuda" and requests == 1 else settings,
            in_flight=requests,
            python=python,
            scenario=scenario,
        )
        for place in devices.places
        for python in options.python or ("",)
        for runtime in options.runtime
        or dict.fromkeys((*(() if alone else _usual_runtimes(place, devices)), *of_files))
        for scenario in _scenarios(options)
        for count in options.threads or devices.threads or (available_threads(),)
        for requests in options.in_flight or (1,)
        for batch in batches
    )


def _usual_runtimes(place: Mapping[str, str], devices: Devices) -> tuple[str, ...]:
    """ONNX Runtime; on a GPU of this machine TensorRT before it, where that is installed."""
    here = place.get("device") == "cuda" and not place.get("node") and not devices.too_old
    return ("tensorrt", "onnxruntime") if here and find_spec("tensorrt") else ("onnxruntime",)


def _scenarios(options: SweepOptions) -> list[ScenarioSpec]:
    """The scenarios by their names, in MLPerf's spelling too."""
    known = {name.replace("-", ""): name for name in SCENARIOS}
    names = [
        known.get(word.lower().replace("-", "").replace("_", ""), word)
        for word in options.scenario or (LOOP,)
    ]
    return [
        ScenarioSpec(
            name,
            target_latency_ms=options.target_latency_ms if name == "server" else None,
            **_given(duration_s=options.scenario_duration_s),
        )
        for name in names
    ]


def preparation_of(options: PreparationOptions) -> Prepared:
    """What is asked of how photographs are prepared."""
    return Prepared(
        mean=None if options.mean is None else parse_channels(options.mean, "--mean"),
        std=None if options.std is None else parse_channels(options.std, "--std"),
        crop=options.crop,
        interpolation=options.interpolation,
    )


def images_spec(options: ImagesOptions, *, trust: bool, labelled: bool = True) -> dict[str, Any]:
    """The fields of an `ImagesSpec`, but for the artifacts.

    Raises:
        StmdeployError: a figure out of range, or no such GPU.
    """
    return {
        "data": DataSpec(options.data, options.class_map, options.limit, labelled),
        "batch": options.batch,
        "threads": available_threads() if options.threads is None else options.threads,
        "preparation": preparation_of(options),
        "runtime": options.runtime or "",
        "settings": RunSettings(provider=options.provider or ""),
        "timeout_s": options.timeout_s,
        "trust": trust,
        **_where(options),
    }


def _where(options: ImagesOptions) -> dict[str, Any]:
    """The fields of an `ImagesSpec` that say where artifacts run.

    Raises:
        StmdeployError: no such GPU, or not one kind of nodes.
    """
    if options.cluster is None:
        if options.nodes or options.allow_version_differences:
            flag = "--nodes" if options.nodes else "--allow-version-differences"
            raise StmdeployError(f"{flag} needs a cluster", "add --cluster ADDRESS")
        return {"gpu": find_gpu(options.gpu)[0] if options.gpu else None}
    if (options.gpu is None) == (options.nodes is None):
        raise StmdeployError(
            "--cluster needs to know which nodes",
            "give --gpu, as in --gpu a100, or --nodes ACCELERATOR_TYPE for processors",
        )
    if options.nodes is not None and options.threads is None:
        raise StmdeployError(
            "--nodes needs --threads: how many those processors have is not known here",
            "add --threads, as in --threads 8",
        )
    return {
        "cluster": ClusterSpec(options.cluster, options.allow_version_differences),
        "node": options.nodes or str(options.gpu).strip().lower(),
        "node_gpu": options.gpu is not None,
        **({"threads": 1} if options.threads is None else {}),
    }


def fidelity_limits(options: LimitOptions) -> FidelityLimits:
    """The limits that are asked for; raises StmdeployError for a figure out of range."""
    return FidelityLimits(options.max_error, options.min_agreement, options.max_top1_drop)


def trial_spec(
    options: TrialOptions,
    model: ModelSpec,
    target: str,
    precision: str,
    lowering: str | None,
    folder: Path,
    *,
    labelled: bool,
    engine: EngineSpec | None = None,
    limits: FidelityLimits | None = None,
) -> TrialSpec:
    """What is tried of a model in a low precision; the artifact goes into a folder, and what was
    tried into one inside it.

    Raises:
        StmdeployError: a figure out of range.
    """
    if options.calibration is not None:
        raise StmdeployError(
            "--calibration belongs to a precision that is asked for", "give the images by --data"
        )
    data = None
    if options.data is not None:
        data = DataSpec(options.data, options.class_map, None, labelled)
    export = ExportSpec(
        model,
        target,
        folder,
        precision,
        lowering,
        calibration=calibration_spec(None, options.calibration_images),
        engine=engine or EngineSpec(),
        preparation=preparation_of(options),
    )
    return TrialSpec(
        export,
        folder / "trials",
        data,
        options.choosing,
        options.held_out,
        options.seed,
        threads=available_threads() if options.threads is None else options.threads,
        limits=limits or FidelityLimits(),
    )


def open_store(options: StoreOptions, *, create: bool = False) -> Store:
    """The store that the options name.

    Raises:
        StmdeployError: there is none, and `create` is false.
    """
    return Store(options.folder, url=options.store_url or "", create=create)


def reference_of(store: Store, sweep: str) -> str:
    """The words that a sweep named its reference with; empty if it named none, or is damaged, for
    its rows are not."""
    try:
        return store.asked(sweep).reference
    except StmdeployError:
        return ""


def rows_of(store: Store, sweep: str | None) -> tuple[SweepInfo, tuple[Row, ...]]:
    """A sweep, by default the newest, and its rows.

    Raises:
        StmdeployError: there is no such sweep, or none of its rows is measured.
    """
    info = store.find_sweep(sweep)
    rows = store.rows(info.id)
    if not rows:
        raise StmdeployError(
            f"sweep {info.id} holds no measured row yet",
            "go on with it: stmdeploy profile --resume",
        )
    return info, rows


def notes_of(options: SweepOptions, spec: SweepSpec) -> list[str]:
    """What a sweep took for granted or left out, in words."""
    told = []
    official = (*list_backbones(), "official_")
    if not options.scale and any(not stm.lower().startswith(official) for stm in options.stm):
        told.append("scale tiny, as none was given (--scale)")
    for runtime, precision in spec.left_out:
        able = ", ".join(exporter_of(runtime).target.tolerances)
        told.append(f"left out: {runtime} in {precision}, which it does not have (it has {able})")
    for model in spec.models:
        if (file := model.file) is None:
            continue
        asked = {(run.runtime, p) for run in spec.runs for p in options.precision}
        for runtime, precision in sorted(asked - set(file.ways)):
            told.append(f"left out: {model.name} on {runtime} in {precision}")
        if others := sorted({r.batch for r in spec.runs} - {file.batch} if file.batch else ()):
            skipped = ", ".join(map(str, others))
            told.append(f"left out: {model.name} at batch {skipped}: it takes {file.batch} images")
    return told
