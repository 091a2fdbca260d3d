"""A row of results, and what was prepared for it. Units are in the names."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from stmdeploy.errors import Failure, FailureKind
from stmdeploy.schema.document import Amount, Count, Document, Number, Percent, PlainText, Side
from stmdeploy.schema.evaluation import Evaluation, Published
from stmdeploy.schema.hardware import Bound, Environment
from stmdeploy.schema.invariance import Invariance
from stmdeploy.schema.manifest import ModelInfo, Operation
from stmdeploy.schema.measurement import Measurement
from stmdeploy.schema.receptive_field import ReceptiveField
from stmdeploy.spec.model import CLASSIFICATION, label
from stmdeploy.spec.run import LOOP


class PreparedArtifact(Document):
    """One export of a model, or the reason why it failed."""

    target: str = Field(description="Target, as --target takes it.")
    precision: str = Field(description="Precision: fp32, fp16, bf16, int8, int8-dynamic or fp8.")
    batch: int | None = Field(None, description="Only batch that it takes; None if it takes any.")
    provider: str = Field("", description="ONNX Runtime's GPU provider it is made for, or none.")
    path: Path | None = Field(None, description="Path of the main file; None if the export failed.")
    seal: str = Field("", description="Seal of the manifest; empty if the export failed.")
    sha256: str | None = Field(None, description="SHA-256 of the main file; None if failed.")
    mib: float | None = Field(None, description="Size of all files, in MiB; None if failed.")
    lowering: str | None = Field(None, description="Form exported; None if failed.")
    export_s: float | None = Field(None, description="Time to export in seconds; None if failed.")
    build_s: float | None = Field(
        None, description="Time to build the engine, in seconds; None without an engine."
    )
    relative_l2_error: float | None = Field(
        None, description="Error against float64, as in Verification; None if failed."
    )
    operations: tuple[Operation, ...] = Field((), description="Operations as in the manifest.")
    failure: Failure | None = Field(None, description="Reason why it failed; None if it did not.")


class Prepared(Document):
    """A model that was built, counted and exported. Counts are for one image."""

    model: ModelInfo = Field(description="Model, as manifests describe it.")
    published: Published | None = Field(description="Authors' accuracy; None if of another model.")
    parameters: int = Field(description="Number of parameters, in single values.")
    macs: int = Field(description="Multiply-accumulates, as fvcore counts them, norms included.")
    matmul_conv_macs: int = Field(description="MACs of matrix products and convolutions alone.")
    activations: int = Field(description="Elements that matrix products and convolutions write.")
    uncounted_operators: dict[str, int] = Field(
        description="Calls of operators that compute but are not counted, by operator."
    )
    artifacts: tuple[PreparedArtifact, ...] = Field(description="Exports, in the order asked for.")


class Try(Document):
    """One attempt to measure a row on a node of a cluster."""

    node: str = Field(description="Name and id of the node; empty if lost before it answered.")
    started_utc: str = Field(description="Time of the start, UTC, ISO 8601.")
    ended_utc: str = Field(description="Time of the end, UTC, ISO 8601.")
    failure: str = Field(description="Reason why it failed; empty if it worked.")


class RowContrast(Document):
    """A row compared with another that it took turns with."""

    key: PlainText = Field(description="Key of the other row: a hash of what it is.")
    difference: float = Field(description="Logarithm of the latency over that of the other row.")
    error: Amount = Field(description="Standard error of the difference.")
    freedom: Amount = Field(description="Degrees of freedom of the error.")


class Row(Document):
    """One row of results: a model, how it was run, what it costs and how exact it is.

    Published figures are the authors', given only for the very network that they belong to, in
    fp32, synthetic weights included: top-1 for classification at 224 px with 1000 classes, AP for
    detection at the sizes of their COCO images. All others were measured or counted here.
    """

    model: PlainText = Field(description="Name of the model, as --model takes it.")
    stm: PlainText = Field(description="Spatial token mixer; custom or file for other models.")
    scale: PlainText = Field(description="Scale, such as tiny; empty for other models.")
    task: PlainText = Field(CLASSIFICATION, description="Task: classification or detection.")
    neck: PlainText = Field("", description="Neck of a detector behind the backbone; often empty.")
    weights: PlainText = Field(description="Origin: checkpoint, synthetic, own or file.")
    weights_sha256: PlainText = Field(description="SHA-256 of the content of the state_dict.")
    image_height_px: Side | None = Field(description="Height of an image in pixels, or None.")
    image_width_px: Side | None = Field(description="Width of an image in pixels, or None.")
    batch: Number = Field(description="Images in one inference.")
    precision: PlainText = Field(
        description="Precision: fp32, fp16, bf16, int8, int8-dynamic or fp8."
    )
    lowering: PlainText | None = Field(description="Form exported; None if the export failed.")
    runtime: PlainText = Field(description="Runtime, as --runtime takes it.")
    device: PlainText = Field(description="Kind of device: cpu or cuda.")
    device_name: PlainText = Field(
        description="Name of the GPU or processor; until measured on a cluster, the kind of node."
    )
    threads: Number = Field(description="Threads of one operator on the CPU.")
    in_flight: Number = Field(description="Requests that run at once.")
    scenario: PlainText = Field(description="Scenario: loop (stmdeploy's own) or one of MLPerf's.")
    python: PlainText = Field(description="Interpreter of the workers; empty for stmdeploy's own.")
    published_top1_percent: Percent | None = Field(
        description="Published ImageNet-1k top-1 accuracy, in per cent; None for other models."
    )
    published_box_ap_percent: Percent | None = Field(
        description="Published COCO box AP with Mask R-CNN 1x, in per cent; None for other models."
    )
    published_mask_ap_percent: Percent | None = Field(
        description="Published COCO mask AP with Mask R-CNN 1x, in per cent; None for other models."
    )
    parameters: Count = Field(description="Number of parameters, in single values.")
    macs: Count = Field(description="Multiply-accumulates of one image, as fvcore counts them.")
    matmul_conv_macs: Count = Field(description="MACs of matrix products and convolutions alone.")
    activations: Count = Field(
        description="Elements that matrix products and convolutions write for one image."
    )
    uncounted_operators: dict[PlainText, Count] = Field(
        description="Calls of operators that compute but are not counted, by operator."
    )
    artifact_sha256: PlainText | None = Field(description="Artifact's SHA-256; None without one.")
    artifact_mib: Amount | None = Field(description="Size of all its files in MiB; None if failed.")
    export_s: Amount | None = Field(description="Time to export, not verify, in s; None if failed.")
    build_s: Amount | None = Field(description="Time to build the engine in s; None without one.")
    relative_l2_error: Amount | None = Field(
        description="Error of the artifact against float64, as in Verification; None if failed."
    )
    stmdeploy_version: PlainText = Field(description="Version of stmdeploy that made the row.")
    started_utc: PlainText = Field(
        description="Time, UTC, ISO 8601: when the row was made, or a node of a cluster began it."
    )
    environment: Environment = Field(description="Machine and software that measured the row.")
    measurement: Measurement | None = Field(description="Figures; None if the row failed.")
    failure: str | None = Field(description="Reason why the row failed; None if it did not.")
    failure_kind: FailureKind | None = Field(None, description="Kind of failure; None without one.")
    failure_code: int = Field(0, description="Exit code of the failure; 0 without one.")
    node: str = Field("", description="Kind of cluster node asked for; empty on one machine.")
    tries: tuple[Try, ...] = Field(
        (), description="Attempts on a cluster; the figures are of the last. Empty on one machine."
    )
    bound: Bound | None = Field(None, description="Roofline bound; None without graph or peaks.")
    parts_ms: dict[str, Amount] | None = Field(
        None, description="Time by model part in ms; empty if no profiler tells, None if not asked."
    )
    key: PlainText = Field("", description="Hash of what the row is; empty in older stores.")
    repeat: Count = Field(0, description="Number of a copy of the row, in a sweep with repeats.")
    contrasts: tuple[RowContrast, ...] = Field(
        (), description="Comparisons with rows of the same sweep that it took turns with."
    )
    accuracy: Evaluation | None = Field(
        None, description="Evaluation with the most images, same runtime and provider; or None."
    )
    invariance: Invariance | None = Field(
        None, description="Invariance to the most transforms, same runtime and provider; or None."
    )
    receptive_field: ReceptiveField | None = Field(
        None, description="Receptive fields of the network, at this image size; or None."
    )

    @property
    def label(self) -> str:
        """As `ModelSpec.label`."""
        return label(self.model, self.task, self.neck, self.image_size)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of an image in pixels; None of a file that takes none."""
        if self.image_height_px is None or self.image_width_px is None:
            return None
        return self.image_height_px, self.image_width_px

    @property
    def image(self) -> str:
        """The image size in words: ``224x224``, or ``-`` without images."""
        return "x".join(map(str, self.image_size)) if self.image_size else "-"

    @property
    def efficiency(self) -> float | None:
        """Bound divided by median latency: at most 1, unless the peaks were measured too low.

        None if the row failed or has no bound, and for LoadGen or several requests in flight.
        """
        if self.bound is None or self.measurement is None or self.failure is not None:
            return None
        if self.scenario != LOOP or self.in_flight != 1:
            return None  # its latency includes waiting for other requests
        return self.bound.bound_ms / self.measurement.latency_ms_p50
