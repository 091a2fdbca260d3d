"""The schema of a measured row. Units are in the names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stmdeploy.artifact import Document, ModelInfo, Operation
from stmdeploy.published import Published
from stmdeploy.spec import LOOP


class Environment(Document):
    """The machine and software a row was measured on; None where it cannot be read."""

    processor: str
    cores: int
    threads_available: int
    memory_gib: float
    gpus: tuple[str, ...]
    os: str
    python: str
    virtual_machine: bool | None
    governor: str | None
    load_average_1min: float | None
    versions: dict[str, str]


class Conditions(Document):
    """The state of the machine at one moment; None where it cannot be read."""

    cpu_mhz: float | None = None
    cpu_temperature_c: float | None = None
    cpu_throttle_events: int | None = None
    package_energy_j: float | None = None
    gpu_sm_mhz: float | None = None
    gpu_memory_mhz: float | None = None
    gpu_temperature_c: float | None = None
    gpu_power_w: float | None = None
    gpu_energy_j: float | None = None
    gpu_throttle_reasons: tuple[str, ...] | None = None
    gpu_memory_used_mib: float | None = None
    gpu_processes: int | None = None


class ScenarioResult(Document):
    """What LoadGen says of a run: its own figures, its verdict, and where its logs are."""

    scenario: str
    valid: bool
    reasons: tuple[str, ...]
    queries: int
    latency_ms_p50: float | None
    latency_ms_p90: float | None
    latency_ms_p99: float | None
    throughput_images_s: float
    target_queries_s: float | None
    target_latency_ms: float | None
    logs: str
    loadgen_version: str


class ProcessRun(Document):
    """What one worker process measured of a row. Samples are in the order they were taken.

    ``copies_ms`` are inferences with the input brought to the runtime and the output brought
    back, each time; ``device_ms`` are inferences by the GPU's own clock, without the host.
    ``window_s`` is how long the samples took altogether. ``energy_j`` is of that window, by the
    meter ``energy_source``. Memory is as in `Measurement`.
    """

    samples_ms: tuple[float, ...]
    copies_ms: tuple[float, ...]
    warmup_ms: tuple[float, ...]
    warmup_ended_by: str
    stopped_by: str
    window_s: float
    runtime_import_ms: float
    load_ms: float
    first_inference_ms: float
    memory_before_load_mib: float
    memory_peak_mib: float
    device_memory_peak_mib: float | None
    energy_j: float | None
    energy_source: str
    runtime_facts: dict[str, str]
    load_average_1min: float | None
    before: Conditions
    after: Conditions
    environment: Environment
    device_ms: tuple[float, ...] = ()
    scenario: ScenarioResult | None = None


class TurnsRun(Document):
    """What one side of a comparison says of itself at its end, its turns told before.

    ``logits`` are those of the first input image, which is the same for both sides.
    """

    runtime_import_ms: float
    load_ms: float
    first_inference_ms: float
    memory_peak_mib: float
    runtime_facts: dict[str, str]
    logits: tuple[float, ...]
    environment: Environment


class Measurement(Document):
    """A row's figures, out of all its processes.

    Latency is of one inference of the whole batch, input and output already on the device;
    ``latency_with_copies_ms_p50`` includes bringing both there and back;
    ``latency_on_device_ms_p50`` is by the GPU's own events, None where nothing tells it. The median
    is the geometric mean of the processes' medians; ``latency_ms_p50_low`` and ``_high`` bound its
    95 % interval (`stmdeploy.measure.statistics`). A percentile is None where the samples are too
    few for it. Throughput is images over the time of all samples, with as many requests in flight
    as the row says. Memory is the worker's resident set on the host, GPU or not:
    ``memory_before_load_mib`` with the runtime imported and the input made, ``memory_peak_mib`` the
    most that any process held. ``runtime_import_ms`` is of the runtime's library, ``load_ms`` from
    the artifact to a runner ready for its input; for torch that includes building the module.
    ``first_inference_ms`` is from there to the first output, the input brought to the device and a
    CUDA graph recorded on the way. Energy is None where no meter can be read. ``steady`` is the
    verdict on the measurement itself, and ``advice`` says what to do about it.
    """

    latency_ms_p50: float
    latency_ms_p50_low: float
    latency_ms_p50_high: float
    latency_ms_mean: float
    latency_ms_min: float
    latency_ms_p90: float | None
    latency_ms_p95: float | None
    latency_ms_p99: float | None
    latency_with_copies_ms_p50: float | None
    latency_on_device_ms_p50: float | None = None
    throughput_images_s: float
    runtime_import_ms: float
    load_ms: float
    first_inference_ms: float
    memory_before_load_mib: float
    memory_peak_mib: float
    device_memory_peak_mib: float | None
    energy_j_per_image: float | None
    energy_source: str
    processes: int
    samples: int
    warmup_runs: int
    stopped_by: str
    steady: bool
    advice: tuple[str, ...]
    runtime_facts: dict[str, str]
    load_average_1min: float | None
    before: Conditions
    after: Conditions
    scenario: ScenarioResult | None


class Rate(Document):
    """The most that a processor multiplies and adds, counted as two, in a precision.

    ``by``: the library that reached it, or the datasheet's word for the unit.
    """

    precision: str
    tflops: float
    by: str


class MemoryLevel(Document):
    """How fast bytes come that fit into ``up_to_mib`` together and into no level before.

    ``up_to_mib`` is None for the last level, ``gb_s`` for one whose bytes cost nothing.
    """

    up_to_mib: float | None
    gb_s: float | None


class Peaks(Document):
    """What a processor can do at most: measured here, or as its datasheet says."""

    kind: Literal["measured", "datasheet"]
    source: str
    rates: tuple[Rate, ...]
    memory: tuple[MemoryLevel, ...]


class Bound(Document):
    """The roofline bound of a row: not measured, but worked out of its graph and of peaks.

    ``compute_ms`` and ``memory_ms`` are what either alone would take; the bound takes the
    larger of both for every operator. ``parts_ms`` is where it comes from. ``macs`` and
    ``bytes`` are of the whole batch, as the graph does them.
    """

    bound_ms: float
    compute_ms: float
    memory_ms: float
    macs: int
    bytes: int
    parts_ms: dict[str, float]
    rate: Rate
    peaks: Peaks


class Share95(Document):
    """A share in per cent, with its 95 % interval."""

    percent: float
    low: float
    high: float


class Evaluation(Document):
    """Accuracy of one artifact, as measured over labelled images.

    ``agreement`` is with the artifact ``reference`` of the same weights in float32, image by
    image; None without one. ``data_sha256`` is of the images' names, sizes and classes;
    ``skipped`` images could not be read, the first of them are named.
    """

    artifact_sha256: str
    model: str
    weights: str
    weights_sha256: str
    image_size: tuple[int, int]
    precision: str
    runtime: str
    runtime_version: str
    provider: str
    data: str
    data_sha256: str
    images: int
    skipped: int
    skipped_files: tuple[str, ...]
    top1: Share95
    top5: Share95
    reference: str | None
    agreement: Share95 | None
    reference_top1: Share95 | None
    created_utc: str
    environment: Environment


class PreparedArtifact(Document):
    """One export of a model, or why there is none, in words and as an exit code.

    ``build_s`` is of engines.
    """

    target: str
    precision: str
    path: Path | None = None
    sha256: str | None = None
    mib: float | None = None
    lowering: str | None = None
    export_s: float | None = None
    build_s: float | None = None
    relative_l2_error: float | None = None
    operations: tuple[Operation, ...] = ()
    failure: str = ""
    code: int = 0


class Prepared(Document):
    """A model built, counted and exported."""

    model: ModelInfo
    published: Published | None
    parameters: int
    macs: int
    matmul_conv_macs: int
    activations: int
    uncounted_operators: dict[str, int]
    artifacts: tuple[PreparedArtifact, ...]


class Try(Document):
    """One attempt to measure a row on a node of a cluster; ``failure`` is empty if it worked.

    ``node`` is its name and id in the cluster, empty where it was lost before it could say.
    """

    node: str
    started_utc: str
    ended_utc: str
    failure: str


class Row(Document):
    """One line of the table: a model, how it was run, what it costs and how exact it is.

    ``published_*`` are the authors' figures, and there only for what they published them of
    (224 px, 1000 classes); everything else was measured or counted here.
    ``relative_l2_error`` is of the artifact, as verified on the exporting machine.
    ``bound`` is None without a graph or without peaks; ``parts_ms`` is the time of the kinds of
    parts by the runtime's own profiler, empty where it has none, None where it was not asked.
    ``accuracy`` is the evaluation of the very artifact, on the same runtime and provider, over
    the most images, of equal ones the newest; the store keeps it apart and adds it as it reads.
    ``measurement`` is None and ``failure`` says why where the row could not be measured; the
    fields of the artifact are None where it could not be exported. ``failure_code`` is the exit
    code of the failure, 0 without one. ``node`` is the kind of
    a cluster's nodes that it was asked of, and ``tries`` are the attempts there, the last the
    one whose figures these are; empty on one machine.
    """

    model: str
    stm: str
    scale: str
    weights: str
    weights_sha256: str
    image_height_px: int
    image_width_px: int
    batch: int
    precision: str
    lowering: str | None
    runtime: str
    device: str
    device_name: str
    threads: int
    in_flight: int
    scenario: str
    python: str
    published_top1_percent: float | None
    published_box_ap_percent: float | None
    published_mask_ap_percent: float | None
    parameters: int
    macs: int
    matmul_conv_macs: int
    activations: int
    uncounted_operators: dict[str, int]
    artifact_sha256: str | None
    artifact_mib: float | None
    export_s: float | None
    build_s: float | None
    relative_l2_error: float | None
    stmdeploy_version: str
    started_utc: str
    environment: Environment
    measurement: Measurement | None
    failure: str | None
    failure_code: int = 0
    node: str = ""
    tries: tuple[Try, ...] = ()
    bound: Bound | None = None
    parts_ms: dict[str, float] | None = None
    accuracy: Evaluation | None = None

    @property
    def efficiency(self) -> float | None:
        """How near the row comes to its bound: 1 at most, unless the peaks are too low."""
        if self.bound is None or self.measurement is None or self.failure is not None:
            return None
        if self.scenario != LOOP or self.in_flight != 1:
            return None  # its latency holds the waiting for others
        return self.bound.bound_ms / self.measurement.latency_ms_p50
