"""The schema of a measured row. Units are in the names."""

from __future__ import annotations

from typing import Literal

from stmdeploy.artifact import Document

#: 1: first version.
RESULTS_SCHEMA_VERSION = 1


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


class Measurement(Document):
    """What a worker measured.

    Latency is of one inference of the whole batch, input and output already on the device.
    ``latency_ms_p50_low`` and ``_high`` bound the 95 % interval of the median. A percentile
    is None where the samples are too few for it. Throughput is images over the time of all
    samples, one inference at a time. Memory is the worker's resident set on the host, GPU or
    not: ``memory_before_load_mib`` with the runtime imported and the input made,
    ``memory_peak_mib`` the most it held. ``load_ms`` is from the artifact to a runner ready
    for its input; for torch that includes building the module.
    """

    latency_ms_p50: float
    latency_ms_p50_low: float
    latency_ms_p50_high: float
    latency_ms_mean: float
    latency_ms_min: float
    latency_ms_p90: float | None
    latency_ms_p95: float | None
    latency_ms_p99: float | None
    throughput_images_s: float
    load_ms: float
    first_inference_ms: float
    memory_before_load_mib: float
    memory_peak_mib: float
    stopped_by: str
    warmup_ms: tuple[float, ...]
    samples_ms: tuple[float, ...]
    runtime_facts: dict[str, str]
    load_average_1min: float | None


class Row(Document):
    """One line of the table: a model, how it was run, what it costs and how exact it is.

    ``published_*`` are the authors' figures, and there only for what they published them of
    (224 px, 1000 classes); everything else was measured or counted here.
    ``relative_l2_error`` is of the artifact, as verified on the exporting machine.
    ``measurement`` is None and ``failure`` says why where the row could not be measured; the
    fields of the artifact are None where it could not be exported.
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
    published_top1_percent: float | None
    published_box_ap_percent: float | None
    published_mask_ap_percent: float | None
    parameters: int
    macs: int
    matmul_conv_macs: int
    uncounted_operators: dict[str, int]
    artifact_sha256: str | None
    artifact_mib: float | None
    export_s: float | None
    relative_l2_error: float | None
    stmdeploy_version: str
    started_utc: str
    environment: Environment
    measurement: Measurement | None
    failure: str | None


class Results(Document):
    """The stored document."""

    schema_version: int = RESULTS_SCHEMA_VERSION
    kind: Literal["stmdeploy-results"] = "stmdeploy-results"
    rows: tuple[Row, ...] = ()
