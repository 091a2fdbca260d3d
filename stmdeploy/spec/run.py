"""How an artifact is run and measured: runtime, device, scenario, sampling."""

from __future__ import annotations

from dataclasses import dataclass, field

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.limits import at_least, at_most, positive

HINTS = ("latency", "throughput")
LOOP = "loop"
#: A worker is ended so long after its share of the budget; the exports of a model after so long.
ROW_TIMEOUT_S, EXPORT_TIMEOUT_S = 600.0, 3600.0
#: Our own loop, and MLPerf's scenarios as LoadGen runs them.
SCENARIOS = (LOOP, "single-stream", "multi-stream", "server", "offline")
#: Execution providers of ONNX Runtime that can be asked for, by the names used here.
GPU_PROVIDERS = ("cuda", "tensorrt", "nvtensorrtrtx")
PROVIDERS = ("cpu", "openvino", *GPU_PROVIDERS)
MAX_PROCESSES, MAX_IN_FLIGHT = 100, 1024


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
