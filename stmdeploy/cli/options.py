"""The options that several commands share, each declared once: type, unit, default and help.

An option that is not given is None or empty; what it then comes to is the default of the spec that
it becomes a part of. The fields of `SweepOptions` are also the keys of a sweep file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from stmdeploy.cli.command import Numbers, Words, many, option
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
        "Spatial token mixers: halo, pvt, pvt_v2, swin, convnext, dcn; an alias, or an official "
        "name such as unified_dcn_v3_tiny.",
    )
    scale: Words = many(
        MODEL,
        "Scales: micro, tiny, small, base; of dcn also large. [default: tiny; micro where a "
        "profile names no --stm]",
    )
    model: Words = many(
        MODEL,
        "A model of your own: package.module:callable, or timm:NAME where timm is installed.",
    )
    image_size: Words = many(MODEL, "Image size in pixels: 224, or HEIGHTxWIDTH. [default: 224]")
    num_classes: int | None = option(
        MODEL,
        "Outputs of the head. A --model whose callable takes num_classes is given it. [default: "
        "1000; of a --model what it has]",
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
        "Precisions: fp32, fp16, bf16, int8, int8-dynamic. [default: fp32]",
    )
    lowering: str | None = option(
        MODEL,
        "Form of the mixers: reference; tokens, the same function in ONNX's own Attention, "
        "DeformConv and RMSNormalization; or tokens-plain, without those. [default: what suits "
        "the target]",
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """What int8 is calibrated with."""

    calibration: Path | None = option(
        MODEL,
        "Folder of photographs: half of them set the scales of int8, half judge the precision. "
        "[default: random images]",
    )
    calibration_images: int | None = option(
        MODEL,
        "Number of images that set the scales; as many others judge. "
        f"[default: {CalibrationSpec.images}]",
    )


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How TensorRT builds."""

    workspace_mib: int | None = option(
        GPU,
        "TensorRT: scratch memory of a layer, in MiB. [default: all of the device]",
    )
    builder_optimization_level: int | None = option(
        GPU,
        "TensorRT: 0, the fastest build, to 5, the fastest engine. [default: the builder's own]",
    )
    timing_cache_file: Path | None = option(
        GPU,
        "TensorRT: file that keeps its timings between builds.",
    )
    compute_capability: Words = many(
        GPU,
        "TensorRT-RTX: GPUs to build for, as 8.9,12.0. [default: this GPU, else 8.9]",
    )


@dataclass(frozen=True, kw_only=True)
class RowOptions(FormOptions, CheckpointOption, ModelOptions):
    """Which rows a sweep or a baseline has."""

    batch: Numbers = many(
        SWEEP,
        "Images per inference. [default: 1,8; of a GPU what its profile has]",
    )
    runtime: Words = many(
        SWEEP,
        "Runtimes: onnxruntime, openvino, torch, torch-compile, aotinductor, tensorrt, "
        "tensorrt-rtx. [default: onnxruntime]",
    )
    threads: Numbers = many(SWEEP, "Threads of one operator, on the CPU. [default: all]")
    gpu: Words = many(
        GPU,
        "Measure on this GPU: see `stmdeploy hardware list`. With --cluster several, as a100,h100.",
    )
    provider: str | None = option(
        SWEEP,
        "onnxruntime: execution provider cpu, cuda, tensorrt, nvtensorrtrtx or openvino. "
        "[default: cpu, with --gpu cuda]",
    )
    budget_s: float | None = option(
        MEASURING, f"Sampling time of a row, in seconds. [default: {SamplingSpec.budget_s:g}]"
    )


@dataclass(frozen=True, kw_only=True)
class SweepOptions(EngineOptions, CalibrationOptions, RowOptions):
    """Everything that a sweep can be asked for."""

    in_flight: Numbers = many(SWEEP, "Requests that run at once. [default: 1]")
    scenario: Words = many(
        SWEEP,
        "Scenarios: loop, or one of MLPerf's by LoadGen: single-stream, multi-stream, server, "
        "offline. [default: loop]",
    )
    scenario_duration_s: float | None = option(
        SWEEP,
        f"LoadGen: shortest duration of a run, in seconds. [default: {ScenarioSpec.duration_s:g}]",
    )
    target_latency_ms: float | None = option(
        SWEEP,
        "Server scenario: the latency in ms that its 99th percentile must stay below.",
    )
    python: Words = many(SWEEP, "Python interpreters that measure. [default: this one]")
    hint: str | None = option(
        SWEEP,
        "openvino: performance hint latency or throughput. [default: latency]",
    )
    use_cuda_graph: bool | None = option(GPU, "Replay the inference as one recorded CUDA graph.")
    nodes: Words = many(
        CLUSTER,
        "With --cluster: measure the processors of nodes with these accelerator_types.",
    )
    processes: int | None = option(
        MEASURING, f"Fresh processes of a row, at least. [default: {SamplingSpec.processes}]"
    )
    interval_percent: float | None = option(
        MEASURING,
        "Stop when the 95 % interval reaches no more than this to either side, in per cent. "
        f"[default: {SamplingSpec.target_half_width_percent:g}]",
    )
    warmup_limit_s: float | None = option(
        MEASURING,
        f"Longest warm-up of a process, in seconds. [default: {SamplingSpec.warmup_limit_s:g}]",
    )
    row_timeout_s: float | None = option(
        MEASURING,
        f"End a worker so many seconds after its share of the budget. [default: {ROW_TIMEOUT_S:g}]",
    )
    export_timeout_s: float | None = option(
        MEASURING,
        f"End the exports of a model after so many seconds. [default: {EXPORT_TIMEOUT_S:g}]",
    )
    memory_limit_mib: int | None = option(
        MEASURING,
        "Most that a worker may allocate, in MiB. [default: what is free]",
    )
    smaller_batch: bool | None = option(
        MEASURING,
        "After running out of memory, try half the batch.",
    )
    explain: bool | None = option(
        MEASURING,
        "Also find the bound of every row, and where its time goes. [default: explain]",
        flag="--explain/--no-explain",
    )


@dataclass(frozen=True, kw_only=True)
class SweepFileOption:
    """A file of options."""

    sweep: Path | None = option(
        SWEEP,
        "TOML file whose keys are the flags of profile; a flag given here is stronger.",
    )


@dataclass(frozen=True, kw_only=True)
class TrustOption:
    """Whether files are trusted."""

    trust: bool = option(
        OUTPUT,
        "Also do what files name: run their programs and Python code, fetch from their "
        "addresses, use their paths. See SECURITY.md.",
        False,
    )


@dataclass(frozen=True, kw_only=True)
class JsonOption:
    """For scripts."""

    json: bool = option(OUTPUT, "Print one JSON document to stdout.", False)


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where rows are kept."""

    out: Path | None = option(OUTPUT, f"Folder of the store. [default: {RESULTS_ROOT}]")
    store_url: str | None = option(
        OUTPUT,
        "Keep rows on a PostgreSQL server, postgresql+psycopg://HOST/DATABASE, and only what "
        "lies beside them in --out. [default: results.db in --out]",
        envvar="STMDEPLOY_STORE",
        flag="--store",
    )

    @property
    def folder(self) -> Path:
        """The folder of the store, or of what lies beside a server's."""
        return self.out or RESULTS_ROOT


def part_of(options: object, kind: type[OptionsT]) -> OptionsT:
    """The options of one kind out of those of a command, which may have more, or fewer."""
    given = {f.name: getattr(options, f.name) for f in fields(kind) if hasattr(options, f.name)}  # type: ignore[arg-type]
    return kind(**given)
