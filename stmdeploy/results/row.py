"""The schema of a measured row. Units are in the names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stmdeploy.artifact import Document, ModelInfo, Operation, PlainText, Side
from stmdeploy.published import Published
from stmdeploy.spec import LOOP

Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, le=1e30)]
#: A duration that is divided by, or whose logarithm is taken.
Ms = Annotated[float, Field(gt=0, le=1e12)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Environment(Document):
    """The machine and software a row was measured on; None where it cannot be read."""

    processor: PlainText
    cores: Number
    threads_available: Number
    memory_gib: Amount
    gpus: tuple[PlainText, ...]
    os: PlainText
    python: PlainText
    virtual_machine: bool | None
    governor: PlainText | None
    load_average_1min: float | None
    versions: dict[PlainText, PlainText]


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
    latency_ms_p50: Ms | None
    latency_ms_p90: Ms | None
    latency_ms_p99: Ms | None
    throughput_images_s: Amount
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
    window_s: Amount
    runtime_import_ms: Amount
    load_ms: Amount
    first_inference_ms: Amount
    memory_before_load_mib: Amount
    memory_peak_mib: Amount
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

    latency_ms_p50: Ms
    latency_ms_p50_low: Ms
    latency_ms_p50_high: Ms
    latency_ms_mean: Ms
    latency_ms_min: Ms
    latency_ms_p90: Ms | None
    latency_ms_p95: Ms | None
    latency_ms_p99: Ms | None
    latency_with_copies_ms_p50: Ms | None
    latency_on_device_ms_p50: Ms | None = None
    throughput_images_s: Amount
    runtime_import_ms: Amount
    load_ms: Amount
    first_inference_ms: Amount
    memory_before_load_mib: Amount
    memory_peak_mib: Amount
    device_memory_peak_mib: float | None
    energy_j_per_image: float | None
    energy_source: str
    processes: Number
    samples: Number
    warmup_runs: Count
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

    precision: PlainText
    tflops: Annotated[float, Field(gt=0, le=1e9)]
    by: PlainText


class MemoryLevel(Document):
    """How fast bytes come that fit into ``up_to_mib`` together and into no level before.

    ``up_to_mib`` is None for the last level, ``gb_s`` for one whose bytes cost nothing.
    """

    up_to_mib: Ms | None
    gb_s: Ms | None


class Peaks(Document):
    """What a processor can do at most: measured here, or as its datasheet says."""

    kind: Literal["measured", "datasheet"]
    source: str
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    memory: Annotated[tuple[MemoryLevel, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _memory_has_an_end(self) -> Self:
        """Whatever is larger than every level comes from the last, at some speed."""
        if self.memory[-1].up_to_mib is not None or self.memory[-1].gb_s is None:
            raise ValueError("the last level of memory has an end, or no speed")
        return self


class Bound(Document):
    """The roofline bound of a row: not measured, but worked out of its graph and of peaks.

    ``compute_ms`` and ``memory_ms`` are what either alone would take; the bound takes the
    larger of both for every operator. ``parts_ms`` is where it comes from. ``macs`` and
    ``bytes`` are of the whole batch, as the graph does them.
    """

    bound_ms: Amount
    compute_ms: Amount
    memory_ms: Amount
    macs: Count
    bytes: Count
    parts_ms: dict[str, Amount]
    rate: Rate
    peaks: Peaks


class Share95(Document):
    """A share in per cent, with its 95 % interval."""

    percent: Percent
    low: Percent
    high: Percent


class Evaluation(Document):
    """Accuracy of one artifact, as measured over labelled images.

    ``agreement`` is with the artifact ``reference`` of the same weights in float32, image by
    image; None without one. ``data_sha256`` is of the images' names, sizes and classes;
    ``skipped`` images could not be read, the first of them are named.
    """

    artifact_sha256: PlainText
    model: PlainText
    weights: PlainText
    weights_sha256: PlainText
    image_size: tuple[Side, Side]
    precision: PlainText
    runtime: PlainText
    runtime_version: PlainText
    provider: PlainText
    data: PlainText
    data_sha256: PlainText
    images: Number
    skipped: Count
    skipped_files: tuple[str, ...]
    top1: Share95
    top5: Share95
    reference: str | None
    agreement: Share95 | None
    reference_top1: Share95 | None
    created_utc: PlainText
    environment: Environment


class PreparedArtifact(Document):
    """One export of a model, or why there is none, in words and as an exit code.

    ``build_s`` is of engines. ``seal`` is the manifest's, over the hashes of all files.
    """

    target: str
    precision: str
    path: Path | None = None
    seal: str = ""
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

    model: PlainText
    stm: PlainText
    scale: PlainText
    weights: PlainText
    weights_sha256: PlainText
    image_height_px: Side
    image_width_px: Side
    batch: Number
    precision: PlainText
    lowering: PlainText | None
    runtime: PlainText
    device: PlainText
    device_name: PlainText
    threads: Number
    in_flight: Number
    scenario: PlainText
    python: PlainText
    published_top1_percent: Percent | None
    published_box_ap_percent: Percent | None
    published_mask_ap_percent: Percent | None
    parameters: Count
    macs: Count
    matmul_conv_macs: Count
    activations: Count
    uncounted_operators: dict[PlainText, Count]
    artifact_sha256: PlainText | None
    artifact_mib: Amount | None
    export_s: Amount | None
    build_s: Amount | None
    relative_l2_error: Amount | None
    stmdeploy_version: PlainText
    started_utc: PlainText
    environment: Environment
    measurement: Measurement | None
    failure: str | None
    failure_code: int = 0
    node: str = ""
    tries: tuple[Try, ...] = ()
    bound: Bound | None = None
    parts_ms: dict[str, Amount] | None = None
    accuracy: Evaluation | None = None

    @property
    def efficiency(self) -> float | None:
        """How near the row comes to its bound: 1 at most, unless the peaks are too low."""
        if self.bound is None or self.measurement is None or self.failure is not None:
            return None
        if self.scenario != LOOP or self.in_flight != 1:
            return None  # its latency holds the waiting for others
        return self.bound.bound_ms / self.measurement.latency_ms_p50
