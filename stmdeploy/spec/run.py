"""How an artifact is run and measured: runtime, device, scenario, sampling."""

from __future__ import annotations

from dataclasses import dataclass, field

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.limits import at_least, at_most, positive

HINTS = ("latency", "throughput")
#: Modes of torch.compile, and those that replay CUDA graphs of their own.
OWN_GRAPHS = ("reduce-overhead", "max-autotune")
GRAPH_OPTIMIZATIONS = ("all", "extended", "basic", "disabled")
TORCH_MODES = ("default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune")
LOOP = "loop"
#: How long after its share of the budget a worker is ended, and after how long an export is.
ROW_TIMEOUT_S, EXPORT_TIMEOUT_S = 600.0, 3600.0
#: Our own loop, and MLPerf's scenarios as LoadGen runs them.
SCENARIOS = (LOOP, "single-stream", "multi-stream", "server", "offline")
#: Execution providers of ONNX Runtime that can be asked for, by the names used here.
GPU_PROVIDERS = ("cuda", "tensorrt", "nvtensorrtrtx")
PROVIDERS = ("cpu", "openvino", *GPU_PROVIDERS)
MAX_PROCESSES, MAX_IN_FLIGHT = 100, 1024


@dataclass(frozen=True)
class RunSettings:
    """Settings that only some runtimes use.

    Attributes:
        provider: ONNX Runtime's provider, one of `PROVIDERS`; empty for the device's default.
        hint: ``latency`` or ``throughput``, for runtimes that optimise for either.
        cuda_graph: whether a GPU replays the inference as one recorded CUDA graph.
        cuda_graph_optional: whether a model that cannot be recorded goes on without one.
        cold_l2: whether the GPU's L2 cache is emptied before every timed inference.
        clock_mhz: clock that the GPU's processors are locked at; None to leave it alone.
        torch_mode: mode of ``torch.compile``, one of `TORCH_MODES`.
        channels_last: whether torch keeps images with their channels last; on a GPU it always does.
        spinning: whether ONNX Runtime's threads spin while they wait for work.
        flush_denormals: whether processors take numbers too small for float32's full precision as
            0 in ONNX Runtime and torch, as OpenVINO has them do where it pays. Masked attention
            makes many (exp(-100) of a masked logit), which a processor is slow at.
        graph_optimization: how far ONNX Runtime rewrites a graph, one of `GRAPH_OPTIMIZATIONS`;
            ``extended`` leaves out other layouts of tensors.
        inter_op_threads: threads that run operators beside each other in ONNX Runtime; 1 runs one
            after another.
        engine: settings for providers that build an engine when they load.
    """

    provider: str = ""
    hint: str = "latency"
    cuda_graph: bool = False
    cuda_graph_optional: bool = False
    cold_l2: bool = False
    clock_mhz: int | None = None
    torch_mode: str = "default"
    channels_last: bool = False
    spinning: bool = True
    flush_denormals: bool = False
    graph_optimization: str = "all"
    inter_op_threads: int = 1
    engine: EngineSpec = field(default_factory=EngineSpec)

    def __post_init__(self) -> None:
        for flag, word, known in (
            ("--hint", self.hint, HINTS),
            ("--provider", self.provider, ("", *PROVIDERS)),
            ("--torch-mode", self.torch_mode, TORCH_MODES),
            ("--graph-optimization", self.graph_optimization, GRAPH_OPTIMIZATIONS),
        ):
            if word not in known:
                raise StmdeployError(f"unknown {flag} {word!r}", nearest(word, filter(None, known)))
        at_least(1, self.inter_op_threads, "inter-op threads")
        if self.clock_mhz is not None:
            at_least(1, self.clock_mhz, "clock in MHz")


@dataclass(frozen=True)
class ScenarioSpec:
    """How requests arrive.

    Attributes:
        name: ``loop``, stmdeploy's own loop of one request after the other, or one of MLPerf's
            scenarios.
        duration_s: least duration of a LoadGen run, in seconds.
        target_latency_ms: server scenario: latency that its 99th percentile must stay below.
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
            raise StmdeployError("scenario server needs a limit", "give --target-latency-ms")

    def check_batch(self, batch: int) -> None:
        """Raises StmdeployError for a batch size that the scenario does not allow."""
        if self.name in ("single-stream", "server") and batch != 1:
            told = f"scenario {self.name} sends one image at a time, not {batch}"
            raise StmdeployError(told, "give --batch 1")


@dataclass(frozen=True)
class RunSpec:
    """How an artifact is run.

    Attributes:
        runtime: the runtime, such as ``onnxruntime`` or ``torch``.
        batch: images per inference.
        threads: CPU threads of one operator.
        device: ``cpu`` or ``cuda``.
        gpu_uuid, gpu_name: the GPU, as the driver calls it.
        precision: precision of the artifact, for runtimes that would choose their own.
        settings: what only some runtimes use.
        in_flight: requests that run at once.
        python: path of the interpreter that runs the workers; empty for this one.
        scenario: how requests arrive.
        node: kind of cluster node that runs it: a GPU as ``--gpu`` names it, or any accelerator
            type of the cluster; empty for this machine. The node itself then finds its GPU.
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

    @property
    def by_turns(self) -> bool:
        """Whether its processes take turns with those of other rows. LoadGen and several requests
        in flight keep their own time."""
        return self.scenario.name == LOOP and self.in_flight == 1

    @property
    def gpu_provider(self) -> str:
        """ONNX Runtime's provider, if that is one of `GPU_PROVIDERS`; else empty."""
        asked = (self.settings.provider or self.device) if self.runtime == "onnxruntime" else ""
        return asked if asked in GPU_PROVIDERS else ""

    def __post_init__(self) -> None:
        at_least(1, self.batch, "batch")
        at_least(1, self.threads, "threads")
        at_least(1, self.in_flight, "requests in flight")
        at_most(MAX_IN_FLIGHT, self.in_flight, "requests in flight")
        self.scenario.check_batch(self.batch)
        if self.settings.cuda_graph and self.in_flight > 1 and self.runtime == "onnxruntime":
            raise StmdeployError(
                "onnxruntime cannot share a CUDA graph between requests in flight",
                "leave --use-cuda-graph or --in-flight out",
            )
        for flag, given in (
            ("--cold-l2", self.settings.cold_l2),
            ("--lock-clocks", self.settings.clock_mhz is not None),
        ):
            if given and self.device != "cuda":
                raise StmdeployError(f"{flag} is of a GPU", "name it, as in --gpu a100")
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
    """How much is measured of a row.

    Attributes:
        budget_s: sampling time of a row, over all its processes, in seconds.
        processes: fresh processes of a row, one in each wave.
        turns: turns that a process takes; their time is its share of the budget.
        min_samples: with several requests in flight, how often each runs at least.
        warmup_s, warmup_min: least time in seconds and number of inferences of the warm-up.
        warmup_limit_s: longest warm-up in seconds, steady or not.
    """

    budget_s: float = 4.5
    processes: int = 6
    turns: int = 6
    min_samples: int = 10
    warmup_s: float = 0.3
    warmup_min: int = 3
    warmup_limit_s: float = 3.0

    def __post_init__(self) -> None:
        positive(self.budget_s, "budget")
        at_least(1, self.processes, "number of processes")
        at_most(MAX_PROCESSES, self.processes, "number of processes")
        at_least(1, self.turns, "number of turns")
        at_least(1, self.min_samples, "min samples")

    @property
    def process_budget_s(self) -> float:
        """Each process's share of the sampling time, in seconds."""
        return self.budget_s / self.processes

    @property
    def turn_s(self) -> float:
        """How long a turn takes, in seconds, unless one inference takes longer."""
        return self.process_budget_s / self.turns
