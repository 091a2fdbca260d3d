"""The options that several commands share, each declared once: type, unit, default and help.

An option that is not given is None or empty; what it then comes to is the default of the spec that
it becomes a part of. The fields of `SweepOptions` are also the keys of a sweep file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from stmdeploy.cli.command import REQUIRED, Numbers, Words, many, option
from stmdeploy.spec.export import CalibrationSpec
from stmdeploy.spec.run import EXPORT_TIMEOUT_S, ROW_TIMEOUT_S, SamplingSpec, ScenarioSpec

RESULTS_ROOT, ARTIFACTS_ROOT = Path("stmdeploy-results"), Path("stmdeploy-artifacts")
#: Headings of ``--help``.
MODEL, SWEEP, MEASURING, GPU, CLUSTER, OUTPUT = (
    "Model", "Sweep", "Measuring", "GPU and engines", "Cluster", "Output",
)  # fmt: skip

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which models."""

    stm: Words = many(
        MODEL,
        "Spatial token mixers, such as halo,dcn; see `stmdeploy list`. Aliases and official names, "
        "such as unified_dcn_v3_tiny, work too.",
    )
    scale: Words = many(
        MODEL,
        "Scales: micro, tiny, small, base, for dcn also large; or all. [default: tiny; micro for "
        "`profile` and `bound` without --stm]",
    )
    model: Words = many(
        MODEL, "Models of your own: package.module:callable, or timm:NAME where timm is installed."
    )
    task: str | None = option(
        MODEL,
        "Task: classification, or detection for the authors' detection backbones, which are other "
        "networks: they give four maps, at any size. [default: classification]",
    )
    neck: str | None = option(
        MODEL,
        "detection: neck behind the backbone, whose cost is then included: fpn, with 256 channels "
        "on five levels. [default: none]",
    )
    image_size: Words = many(
        MODEL,
        "Image sizes in pixels: 224, or HEIGHTxWIDTH. [default: 224; for detection 800x1344]",
    )
    num_classes: int | None = option(
        MODEL,
        "Classes that the head tells apart; passed to a --model callable that takes num_classes. "
        "[default: 1000; for a --model, its own]",
    )
    output: str | None = option(
        MODEL, "Key or index of the output that is taken of a --model that gives several."
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointOption:
    """Which weights."""

    checkpoint: str | None = option(
        MODEL,
        "Weights: a file, a URL, or 'official' for the authors'. [default: synthetic weights, "
        "right for latency and meaningless for accuracy]",
    )


@dataclass(frozen=True, kw_only=True)
class FormOptions:
    """In which precisions, and in which form."""

    precision: Words = many(
        MODEL,
        "Precisions: fp32, fp16, bf16, int8, int8-dynamic, fp8; for `export` also auto, which "
        "chooses for every part. [default: fp32]",
    )
    lowering: str | None = option(
        MODEL,
        "Form of the mixers: reference; tokens, the same function by ONNX's own operators "
        "Attention, DeformConv and RMSNormalization; or tokens-plain, without those. [default: "
        "what suits the target]",
    )


@dataclass(frozen=True, kw_only=True)
class StrictOption:
    """What happens with combinations that cannot be."""

    strict: bool | None = option(
        SWEEP,
        "Refuse a precision that one of the runtimes or targets lacks, instead of leaving it out.",
    )


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """What a low precision must keep of a model."""

    max_error: float | None = option(
        MODEL,
        "Limit of a chosen precision: highest relative L2 error of the logits against fp32.",
    )
    min_agreement: float | None = option(
        MODEL,
        "Limit of a chosen precision: least share of images with the top-1 class of fp32, in per "
        "cent.",
    )
    max_top1_drop: float | None = option(
        MODEL,
        "Limit of a chosen precision: most that top-1 may fall by, in percentage points; needs "
        "--data with a folder for each class.",
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """What int8 is calibrated with."""

    calibration: Path | None = option(
        MODEL,
        "Folder of photographs: half of them set the scales of int8 and fp8, the other half test "
        "how closely low precisions agree with float64. [default: random images]",
    )
    calibration_images: int | None = option(
        MODEL,
        "Number of images that set the scales; as many again test the result. "
        f"[default: {CalibrationSpec.images}]",
    )


@dataclass(frozen=True, kw_only=True)
class PreparationOptions:
    """How photographs are prepared."""

    mean: str | None = option(
        MEASURING,
        "Mean of the channels R,G,B, of values in [0, 1]. [default: as the model says, as timm's "
        "do; or 0.485,0.456,0.406]",
    )
    std: str | None = option(
        MEASURING, "Their standard deviation. [default: as the model says, or 0.229,0.224,0.225]"
    )
    crop: float | None = option(
        MEASURING,
        "Share of the resized photograph's shorter side that is cut out of its centre. [default: "
        "as the model says, or 0.875]",
    )
    interpolation: str | None = option(
        MEASURING,
        "Interpolation of the resizing: bicubic, bilinear, nearest or lanczos. [default: as the "
        "model says, or bicubic]",
    )


@dataclass(frozen=True, kw_only=True)
class ImagesOptions(PreparationOptions):
    """Which images artifacts are run over, and how."""

    data: Path = option(MEASURING, "Folder with one folder of images per class.", REQUIRED)
    class_map: Path | None = option(
        MEASURING,
        "JSON file with the class of every folder. [default: folders in alphabetical order are "
        "classes 0, 1, ...]",
    )
    limit: int | None = option(MEASURING, "Number of images, taken evenly from all. [default: all]")
    batch: int = option(MEASURING, "Images per inference.", 32)
    threads: int | None = option(
        MEASURING, "CPU threads that one operator uses, and that read images. [default: all]"
    )
    runtime: str | None = option(
        MEASURING, "Runtime of the artifacts. [default: the usual one of each]"
    )
    provider: str | None = option(MEASURING, "onnxruntime: execution provider. [default: cpu]")
    gpu: str | None = option(
        GPU, "Run on this GPU, or with --cluster on nodes with it: see `stmdeploy hardware list`."
    )
    cluster: str | None = option(
        CLUSTER,
        "Run on the nodes of this Ray cluster: ray://HOST:10001, HOST:PORT, auto or local. Images "
        "are sent there in shards.",
    )
    nodes: str | None = option(
        CLUSTER, "With --cluster: run on the processors of nodes with this accelerator_type."
    )
    allow_version_differences: bool = option(
        CLUSTER, "With --cluster: let versions of runtimes differ between nodes.", False
    )
    timeout_s: float = option(
        OUTPUT, "Seconds that a worker may spend on one batch before it is ended.", 600.0
    )


@dataclass(frozen=True, kw_only=True)
class TrialOptions(PreparationOptions, CalibrationOptions):
    """Over which images a low precision is tried."""

    data: Path | None = option(
        MEASURING,
        "Photographs that set scales, choose, and test what was chosen; no photograph does two of "
        "these. [default: noise, which looks like none]",
    )
    class_map: Path | None = option(
        MEASURING, "JSON file with the class of every folder of --data."
    )
    choosing: int = option(
        MEASURING, "Images that choose; at most a third of those that set no scale.", 64
    )
    held_out: int = option(MEASURING, "Other images that test what was chosen, at most.", 512)
    seed: int = option(MEASURING, "Seed by which images are parted.", 0)
    threads: int | None = option(MEASURING, "CPU threads that one operator uses. [default: all]")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How TensorRT builds."""

    workspace_mib: int | None = option(
        GPU, "TensorRT: scratch memory of a layer, in MiB. [default: all of the GPU's memory]"
    )
    builder_optimization_level: int | None = option(
        GPU,
        "TensorRT: 0, the fastest build, to 5, the fastest engine. [default: the builder's own]",
    )
    timing_cache_file: Path | None = option(
        GPU, "TensorRT: file that keeps the builder's timings from one build to the next."
    )
    compute_capability: Words = many(
        GPU,
        "TensorRT-RTX: compute capabilities to build for, such as 8.9,12.0. [default: this "
        "GPU's, else 8.9]",
    )


@dataclass(frozen=True, kw_only=True)
class RowOptions(FormOptions, StrictOption, CheckpointOption, ModelOptions):
    """Which rows a sweep or a baseline has."""

    batch: Numbers = many(
        SWEEP,
        "Images per inference. [default: 1,8; with --gpu, the batches of its profile; for "
        "detection 1, with --gpu up to 8]",
    )
    runtime: Words = many(
        SWEEP,
        "Runtimes: onnxruntime, openvino, torch, torch-compile, aotinductor, tensorrt, "
        "tensorrt-rtx. [default: onnxruntime]",
    )
    threads: Numbers = many(SWEEP, "CPU threads that one operator uses. [default: all]")
    gpu: Words = many(
        GPU,
        "Measure on this GPU: see `stmdeploy hardware list`. With --cluster several, such as "
        "a100,h100.",
    )
    provider: str | None = option(
        SWEEP,
        "onnxruntime: execution provider cpu, cuda, tensorrt, nvtensorrtrtx or openvino. "
        "[default: cpu; with --gpu, cuda]",
    )
    budget_s: float | None = option(
        MEASURING, f"Sampling time of a row, in seconds. [default: {SamplingSpec.budget_s:g}]"
    )


@dataclass(frozen=True, kw_only=True)
class SweepOptions(EngineOptions, CalibrationOptions, RowOptions):
    """Everything that a sweep can be asked for."""

    in_flight: Numbers = many(SWEEP, "Requests that run at the same time. [default: 1]")
    scenario: Words = many(
        SWEEP,
        "Scenarios: loop, one inference after the other; or MLPerf's, run by LoadGen: "
        "single-stream, multi-stream, server, offline. [default: loop]",
    )
    scenario_duration_s: float | None = option(
        SWEEP,
        f"LoadGen: shortest duration of a run, in seconds. [default: {ScenarioSpec.duration_s:g}]",
    )
    target_latency_ms: float | None = option(
        SWEEP, "Server scenario: the latency in ms that its 99th percentile must stay below."
    )
    python: Words = many(SWEEP, "Python interpreters to measure with. [default: this one]")
    hint: str | None = option(
        SWEEP, "openvino: performance hint, latency or throughput. [default: latency]"
    )
    use_cuda_graph: bool | None = option(
        GPU,
        "Replay the inference as one recorded CUDA graph. [default: where the model can be "
        "recorded]",
        flag="--use-cuda-graph/--no-use-cuda-graph",
    )
    cold_l2: bool | None = option(
        GPU, "Empty the GPU's L2 cache before every timed inference: what follows other work."
    )
    lock_clocks: int | None = option(
        GPU,
        "Lock the clock of the GPU's processors at so many MHz while measuring, and give it back. "
        "Needs root.",
    )
    torch_mode: str | None = option(
        SWEEP,
        "torch-compile: default, reduce-overhead, max-autotune-no-cudagraphs or max-autotune. "
        "[default: default]",
    )
    channels_last: bool | None = option(
        SWEEP, "torch, torch-compile: keep images with their channels last. [default: on a GPU]"
    )
    spinning: bool | None = option(
        SWEEP,
        "onnxruntime: threads spin while they wait for work. [default: spinning]",
        flag="--spinning/--no-spinning",
    )
    flush_denormals: bool | None = option(
        SWEEP,
        "onnxruntime, torch runtimes, on the CPU: take numbers below 1.2e-38 as 0, which masked "
        "attention makes many of. [default: as the runtime does, which keeps them]",
    )
    graph_optimization: str | None = option(
        SWEEP,
        "onnxruntime: how far it rewrites the graph: all, extended, basic or disabled. "
        "[default: all]",
    )
    inter_op_threads: int | None = option(
        SWEEP, "onnxruntime: threads that run operators beside each other. [default: 1]"
    )
    nodes: Words = many(
        CLUSTER, "With --cluster: measure the processors of nodes with these accelerator_types."
    )
    processes: int | None = option(
        MEASURING,
        f"Fresh processes of a row, one in each wave. [default: {SamplingSpec.processes}]",
    )
    reference: str | None = option(
        MEASURING,
        "Row that the others are compared with: words of its name, such as 'convnext' or "
        "'swin/openvino'. [default: convnext, or else the first row]",
    )
    repeats: int | None = option(
        MEASURING,
        "Measure every row so many times, as rows of their own: copies show how far apart rows are "
        "that do not differ. [default: 1]",
    )
    warmup_limit_s: float | None = option(
        MEASURING,
        f"Longest warm-up of a process, in seconds. [default: {SamplingSpec.warmup_limit_s:g}]",
    )
    row_timeout_s: float | None = option(
        MEASURING,
        "Seconds that a worker may take beyond its share of the budget before it is ended. "
        f"[default: {ROW_TIMEOUT_S:g}]",
    )
    export_timeout_s: float | None = option(
        MEASURING,
        "Seconds that all exports of a model may take before they are ended. "
        f"[default: {EXPORT_TIMEOUT_S:g}]",
    )
    memory_limit_mib: int | None = option(
        MEASURING, "Most memory that a worker may allocate, in MiB. [default: what is free]"
    )
    smaller_batch: bool | None = option(
        MEASURING, "Measure half the batch where a row runs out of memory."
    )
    explain: bool | None = option(
        MEASURING,
        "Also find the roofline bound of every row, and where its time goes. [default: explain]",
        flag="--explain/--no-explain",
    )


@dataclass(frozen=True, kw_only=True)
class SweepFileOption:
    """A file of options."""

    sweep: Path | None = option(
        SWEEP, "TOML file whose keys are the flags of `profile`; flags given here override it."
    )
    config: Path | None = option(
        SWEEP, "What `stmdeploy tune` found: its TOML file; flags given here override it."
    )


@dataclass(frozen=True, kw_only=True)
class TrustOption:
    """Whether files are trusted."""

    trust: bool = option(
        OUTPUT,
        "Allow what files ask for: to run their programs and Python code, fetch from their "
        "addresses and use their paths. See SECURITY.md.",
        False,
    )


@dataclass(frozen=True, kw_only=True)
class TaskOption:
    """Rows of which task."""

    task: str | None = option(MODEL, "Only of this task: classification or detection.")


@dataclass(frozen=True, kw_only=True)
class JsonOption:
    """Whether a script reads the output."""

    json: bool = option(OUTPUT, "Print one JSON document to stdout.", False)


@dataclass(frozen=True, kw_only=True)
class ReferenceOption:
    """What stored rows are compared with."""

    reference: str | None = option(
        OUTPUT,
        "Row that the others are compared with: words of its name, such as 'swin/openvino'. "
        "[default: that of the sweep; or else convnext, or the first row]",
    )


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where rows are kept."""

    out: Path | None = option(
        OUTPUT, f"Folder of the store. [default: {RESULTS_ROOT}]", envvar="STMDEPLOY_OUT"
    )
    store_url: str | None = option(
        OUTPUT,
        "PostgreSQL database for the rows, postgresql+psycopg://HOST/DATABASE; --out keeps the "
        "artifacts. [default: results.db in --out]",
        envvar="STMDEPLOY_STORE",
        flag="--store",
    )

    @property
    def folder(self) -> Path:
        """The store's folder; with a server, that of the artifacts."""
        return self.out or RESULTS_ROOT


def part_of(options: object, kind: type[OptionsT]) -> OptionsT:
    """The options of one kind out of those of a command, which may have more, or fewer."""
    given = {f.name: getattr(options, f.name) for f in fields(kind) if hasattr(options, f.name)}  # type: ignore[arg-type]
    return kind(**given)
