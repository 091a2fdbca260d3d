"""What is asked for: validated once, then passed along unchanged. Imports nothing heavy."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from stmdeploy.errors import StmdeployError, nearest

#: fp16 and bf16: weights and activations. int8: both, scales from calibration images.
#: int8-dynamic: matrix products only, activations scaled as they come.
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-dynamic")
#: Forms that a backbone can be exported in; see `stmdeploy.lowering`.
LOWERINGS = ("reference", "tokens", "tokens-plain")
#: The lowest ONNX opset that has the operators of a form.
LOWEST_OPSET = {"reference": 19, "tokens": 23, "tokens-plain": 19}
#: ONNX Runtime's optimiser mixes up the types of quantised graphs of later opsets.
HIGHEST_INT8_OPSET = 20
HINTS = ("latency", "throughput")
LOOP = "loop"
#: Our own loop, and MLPerf's scenarios as LoadGen runs them.
SCENARIOS = (LOOP, "single-stream", "multi-stream", "server", "offline")
#: Execution providers of ONNX Runtime that can be asked for, by the names used here.
GPU_PROVIDERS = ("cuda", "tensorrt", "nvtensorrtrtx")
PROVIDERS = ("cpu", "openvino", *GPU_PROVIDERS)
#: Beyond these nothing fits into memory.
MAX_SIDE_PX = 16_384
MAX_CLASSES = 1_000_000
#: Those of ImageNet-1k.
DEFAULT_CLASSES = 1000
MAX_BATCH = 2**31 - 1
MAX_CALIBRATION_IMAGES = 4096
MAX_PROCESSES, MAX_IN_FLIGHT = 100, 1024
#: Layout of every model: the batch is the only free dimension.
INPUT_NAME = "image"
OUTPUT_NAME = "logits"


@dataclass(frozen=True)
class ModelSpec:
    """A model to build.

    Attributes:
        name: an official backbone name, ``package.module:callable`` or ``timm:NAME``.
        image_size: (height, width) in pixels.
        num_classes: outputs of the head; None for `DEFAULT_CLASSES`, of a user's own model for
            what it gives.
        checkpoint: a file, a URL, or ``official`` for the authors' weights; None for
            synthetic weights (a user's own model: the weights it comes with).
        seed: of synthetic weights.
    """

    name: str
    image_size: tuple[int, int] = (224, 224)
    num_classes: int | None = None
    checkpoint: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_classes is not None:
            at_least(1, self.num_classes, "number of classes")
            at_most(MAX_CLASSES, self.num_classes, "number of classes")
        at_least(1, min(self.image_size), "image side")
        at_most(MAX_SIDE_PX, max(self.image_size), "image side")
        if self.checkpoint is not None and not self.checkpoint.strip():
            raise StmdeployError("--checkpoint is empty", "give a file, a URL or 'official'")

    @property
    def label(self) -> str:
        """The name, with the image size where it is not the usual one."""
        height, width = self.image_size
        return self.name if (height, width) == (224, 224) else f"{self.name} {height}x{width}"

    @property
    def head_classes(self) -> int:
        """Outputs of the head of a backbone of the catalogue."""
        return DEFAULT_CLASSES if self.num_classes is None else self.num_classes

    @property
    def is_custom(self) -> bool:
        """Whether the model comes from outside the catalogue."""
        return ":" in self.name


@dataclass(frozen=True)
class CalibrationSpec:
    """Images to set the scales of int8 with, and to judge every low precision by.

    Attributes:
        folder: of images; None for random ones, which say little of real activations.
        images: how many set the scales; as many others judge.
    """

    folder: Path | None = None
    images: int = 16

    def __post_init__(self) -> None:
        at_least(1, self.images, "number of calibration images")
        at_most(MAX_CALIBRATION_IMAGES, self.images, "number of calibration images")


@dataclass(frozen=True)
class EngineSpec:
    """What a TensorRT builder is told.

    Attributes:
        batch: least, best and most images per inference.
        workspace_mib: scratch memory of a layer; None for all of the device.
        builder_level: 0 to 5, fastest build to fastest engine; None for the builder's default.
        timing_cache: a file that TensorRT keeps its measurements in between builds.
        compute_capabilities: such as ``8.9``; TensorRT-RTX builds for them, without a GPU too.
    """

    batch: tuple[int, int, int] = (1, 8, 32)
    workspace_mib: int | None = None
    builder_level: int | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least(1, self.batch[0], "batch")
        at_most(MAX_BATCH, self.batch[2], "batch")
        if not self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise StmdeployError(
                f"batches {','.join(map(str, self.batch))} do not grow", "give --batch MIN,OPT,MAX"
            )
        if self.workspace_mib is not None:
            at_least(1, self.workspace_mib, "workspace")
        if self.builder_level is not None:
            at_least(0, self.builder_level, "builder level")
            at_most(5, self.builder_level, "builder level")


@dataclass(frozen=True)
class ExportSpec:
    """An artifact to make.

    Attributes:
        model: what to export.
        target: the exporter, such as ``onnx``.
        folder: where the artifact and its manifest go.
        precision: one of `PRECISIONS`.
        lowering: one of `LOWERINGS`; None for what suits the target. A user's own model is
            always exported as it is.
        opset: ONNX opset; None for the exporter's default.
        calibration: images for the low precisions.
        engine: of targets that build one.
        source_only: of such targets, whether it is built elsewhere, where it runs.
    """

    model: ModelSpec
    target: str
    folder: Path
    precision: str = "fp32"
    lowering: str | None = None
    opset: int | None = None
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    engine: EngineSpec = field(default_factory=EngineSpec)
    source_only: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise StmdeployError(
                f"unknown precision {self.precision!r}", nearest(self.precision, PRECISIONS)
            )
        if self.lowering not in (None, *LOWERINGS):
            raise StmdeployError(
                f"unknown lowering {self.lowering!r}", f"choose one of: {', '.join(LOWERINGS)}"
            )

    @property
    def stem(self) -> str:
        """File name of the artifact, without its suffix."""
        height, width = self.model.image_size
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.model.name)
        return f"{safe}-{height}x{width}-{self.precision}"


@dataclass(frozen=True)
class RunSettings:
    """What only some runtimes look at.

    Attributes:
        provider: of ONNX Runtime, one of `PROVIDERS`; empty for the plain one of the device.
        hint: ``latency`` or ``throughput``, for runtimes that arrange themselves for one.
        cuda_graph: whether a GPU replays the inference as one recorded graph.
        engine: for providers that build an engine as they load.
    """

    provider: str = ""
    hint: str = "latency"
    cuda_graph: bool = False
    engine: EngineSpec = field(default_factory=EngineSpec)

    def __post_init__(self) -> None:
        for flag, word, known in (
            ("--hint", self.hint, HINTS),
            ("--provider", self.provider, ("", *PROVIDERS)),
        ):
            if word not in known:
                raise StmdeployError(f"unknown {flag} {word!r}", nearest(word, filter(None, known)))


@dataclass(frozen=True)
class ScenarioSpec:
    """How requests come.

    Attributes:
        name: ``loop``, one after the other by our own loop, or one of MLPerf's scenarios.
        duration_s: of a LoadGen run, at least.
        target_latency_ms: of Server, what its 99th percentile must keep.
    """

    name: str = LOOP
    duration_s: float = 10.0
    target_latency_ms: float | None = None

    def __post_init__(self) -> None:
        if self.name not in SCENARIOS:
            raise StmdeployError(f"unknown scenario {self.name!r}", nearest(self.name, SCENARIOS))
        positive(self.duration_s, "scenario duration")
        if self.target_latency_ms is not None:
            positive(self.target_latency_ms, "target latency")
        elif self.name == "server":
            raise StmdeployError("scenario server has no limit", "give --target-latency-ms")

    def check_batch(self, batch: int) -> None:
        """Raises StmdeployError for a batch that the scenario does not have."""
        if self.name in ("single-stream", "server") and batch != 1:
            raise StmdeployError(
                f"scenario {self.name} asks for one image at a time, not {batch}", "give --batch 1"
            )


@dataclass(frozen=True)
class RunSpec:
    """How an artifact is run.

    Attributes:
        runtime: such as ``onnxruntime`` or ``torch``.
        batch: images per inference.
        threads: of one operator, on the CPU.
        device: ``cpu`` or ``cuda``.
        gpu_uuid, gpu_name: which GPU, as the driver calls it.
        precision: of the artifact; runtimes that compute in a precision of their own choice
            are told.
        settings: what only some runtimes look at.
        in_flight: requests that run at once.
        python: the interpreter that runs the workers; empty for this one.
        scenario: how requests come; see `ScenarioSpec`.
        node: the kind of a cluster's nodes that run it, a GPU as ``--gpu`` names it or any
            accelerator type of the cluster; empty for this machine. Which GPU is then found
            out there.
    """

    runtime: str
    batch: int
    threads: int
    device: str = "cpu"
    gpu_uuid: str = ""
    gpu_name: str = ""
    precision: str = "fp32"
    settings: RunSettings = field(default_factory=RunSettings)
    in_flight: int = 1
    python: str = ""
    scenario: ScenarioSpec = field(default_factory=ScenarioSpec)
    node: str = ""

    def __post_init__(self) -> None:
        at_least(1, self.batch, "batch")
        at_least(1, self.threads, "threads")
        at_least(1, self.in_flight, "requests in flight")
        at_most(MAX_IN_FLIGHT, self.in_flight, "requests in flight")
        self.scenario.check_batch(self.batch)
        if self.settings.cuda_graph and self.in_flight > 1 and self.runtime == "onnxruntime":
            raise StmdeployError(
                "a CUDA graph of onnxruntime belongs to one request",
                "leave --use-cuda-graph or --in-flight out",
            )
        provider = self.settings.provider
        if provider and (provider in GPU_PROVIDERS) != (self.device == "cuda"):
            where, hint = (
                ("a GPU", "name it, as in --gpu a100")
                if provider in GPU_PROVIDERS
                else ("the CPU", "leave --gpu out")
            )
            raise StmdeployError(f"--provider {provider} runs on {where}", hint)


@dataclass(frozen=True)
class SamplingSpec:
    """When to stop warming up, and when to stop measuring.

    Attributes:
        budget_s: sampling time of a row, over all its processes.
        processes: of a row, at least; more follow while the interval is wider than the target
            and the budget is not spent.
        target_half_width_percent: of the row's 95 % interval.
        interval_min_samples: a process judges its own interval over at least so many.
        min_samples: of a process, taken even past the budget.
        warmup_s, warmup_min: the least that is thrown away, ...
        warmup_limit_s: ... and how long at most, steady or not.
    """

    budget_s: float = 10.0
    processes: int = 3
    target_half_width_percent: float = 2.0
    interval_min_samples: int = 64
    min_samples: int = 10
    warmup_s: float = 0.3
    warmup_min: int = 3
    warmup_limit_s: float = 3.0

    def __post_init__(self) -> None:
        positive(self.budget_s, "budget")
        positive(self.target_half_width_percent, "target interval")
        at_least(1, self.processes, "number of processes")
        at_most(MAX_PROCESSES, self.processes, "number of processes")
        at_least(1, self.min_samples, "min samples")

    @property
    def process_budget_s(self) -> float:
        """Each process's share of the budget."""
        return self.budget_s / self.processes


def at_least(lowest: int, value: int, what: str) -> None:
    """Raises StmdeployError if a whole number is too small."""
    if value < lowest:
        raise StmdeployError(f"{what} is {value}", f"give at least {lowest}")


def at_most(highest: int, value: int, what: str) -> None:
    """Raises StmdeployError if a whole number is too large."""
    if value > highest:
        raise StmdeployError(f"{what} is {value}", f"give at most {highest}")


def positive(value: float, what: str) -> None:
    """Raises StmdeployError unless a figure is finite and above zero."""
    if not (math.isfinite(value) and value > 0):
        raise StmdeployError(f"{what} is {value}", "give a number above 0")


def parse_image_size(text: str) -> tuple[int, int]:
    """``224`` -> (224, 224); ``224x320`` -> (224, 320), height first.

    Raises:
        StmdeployError: not one or two whole numbers.
    """
    sides = text.lower().split("x")
    if len(sides) in (1, 2) and all(side.strip().isdecimal() and len(side) < 9 for side in sides):
        return int(sides[0]), int(sides[-1])
    raise StmdeployError(f"image size {text!r} is not understood", "write 224 or HEIGHTxWIDTH")


def available_threads() -> int:
    """Processors that this process may use: its affinity, cut by a container's CPU quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        limit = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return count or 1
    return max(1, min(count or 1, limit))
