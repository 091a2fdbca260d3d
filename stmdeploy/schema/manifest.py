"""The manifest beside an artifact: what it is, how it was made and how exact it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stmdeploy.schema.document import Document, PlainName, PlainText, Sealed, Sha256, Side
from stmdeploy.schema.mixed import Choice
from stmdeploy.spec.model import CLASSIFICATION, MAX_CLASSES
from stmdeploy.spec.preparation import STANDARD, Preparation

#: 1: first version. 2: precisions, fidelity, engines, cost, a seal over the manifest itself.
#: 3: the operations of the graph. 4: known outputs; errors are those of the worst row.
#: 5: the usual length of known outputs. 6: the task, and several outputs. 7: how photographs are
#: prepared; parts kept in float32. 8: files from outside, which are not verified.
MANIFEST_SCHEMA_VERSION = 8
#: Far more than any backbone needs; a file without end must not be hashed for ever.
_MOST_BYTES = 16 * 2**30


class WeightsInfo(Document):
    """Where the weights came from."""

    kind: Literal["checkpoint", "synthetic", "own", "file"] = Field(
        description="Origin: a checkpoint, a seed (synthetic, never trained), a user's own model, "
        "or a file that was made elsewhere."
    )
    source: str = Field(description="File name of the checkpoint, seed, or name of the model.")
    sha256: str = Field(
        description="SHA-256 of the state_dict: names, types, shapes, values; of a file's values."
    )
    checkpoint_sha256: str | None = Field(None, description="SHA-256 of the checkpoint, or None.")


class ModelInfo(Document):
    """The model inside an artifact."""

    name: PlainText = Field(description="Name, as --model takes it.")
    stm: PlainText = Field(description="Spatial token mixer; custom or file for other models.")
    scale: PlainText = Field(description="Scale, such as tiny; empty for other models.")
    image_size: tuple[Side, Side] | None = Field(
        description="Height and width of an image, in pixels; None if it takes none."
    )
    task: PlainText = Field(CLASSIFICATION, description="Task: classification or detection.")
    neck: PlainText = Field("", description="Neck of a detector behind the backbone; often empty.")
    num_classes: int | None = Field(
        ge=1, le=MAX_CLASSES, description="Logits per image; None for detection and other outputs."
    )
    preparation: Preparation = Field(
        STANDARD, description="How photographs are resized, cropped and normalised for it."
    )
    parameters: int = Field(description="Number of parameters, in single values.")
    weights: WeightsInfo = Field(description="Origin and hash of the weights.")

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of an image, of a model that takes images."""
        assert self.image_size is not None
        return self.image_size


class TensorInfo(Document):
    """A named input or output of an artifact."""

    name: str = Field(description="Name of the tensor.")
    dtype: str = Field(description="Data type, such as float32.")
    shape: tuple[int | str, ...] = Field(
        description='Dimensions; free ones are "batch", and of a dynamic size "height/4" and so on.'
    )


class FileInfo(Document):
    """One file of an artifact."""

    name: PlainName = Field(description="File name, without a folder.")
    sha256: Sha256 = Field(description="SHA-256 of the content, in hex.")
    size_bytes: int = Field(ge=0, le=_MOST_BYTES, description="Size in bytes.")


class KnownOutput(Document):
    """One output of the model for three random images, in float64."""

    name: PlainText = Field(description="Name of the output.")
    size: int = Field(ge=1, description="Values that an image has of it.")
    step: int = Field(ge=1, description="Every step-th value of an image is kept; 1 keeps all.")
    length: float = Field(gt=0, description="Usual L2 norm of an image's kept values (RMS).")
    values: str = Field(description="Kept values, float32 in little-endian order, as base64.")


class KnownOutputs(Document):
    """The model's float64 outputs for three random images (see `stmdeploy.artifacts.probe`)."""

    seed: int = Field(ge=0, lt=2**32, description="Seed of the three random images.")
    outputs: tuple[KnownOutput, ...] = Field(
        min_length=1, max_length=64, description="Outputs, in the model's order."
    )


class Verification(Document):
    """Outputs against the float64 PyTorch reference, over fresh random inputs.

    Errors are those of the worst output for the worst image of any batch. If the engine could not
    run on the exporting machine, they are of the graph that it was built from, run by another
    runtime.
    """

    runtime: str = Field(description="Runtime that computed them, its version and provider.")
    batches: tuple[int, ...] = Field(description="Batch sizes that were run.")
    input_seed: int = Field(description="Seed of the inputs.")
    relative_l2_error: float = Field(
        description="||y - r|| / ||r|| over an image's output; ||r|| is at least the usual norm."
    )
    relative_l2_errors: dict[str, float] = Field(
        description="The same for each output, by its name."
    )
    worst_difference: float = Field(description="Largest absolute difference of a value.")
    row_dependence: float = Field(
        description="Relative L2 change of an image's output when its place or its batch changes."
    )
    tolerance_relative_l2: float | None = Field(
        description="Limit of the error, wider for under 16 values; None if it is only reported."
    )
    outputs: KnownOutputs = Field(description="Known outputs that runs are checked against.")


class VerifiedSize(Document):
    """Outputs against the float64 reference at a further image size, as in Verification."""

    image_size: tuple[Side, Side] = Field(description="Height and width of the images, in pixels.")
    relative_l2_error: float = Field(description="Error of the worst output and image.")
    row_dependence: float = Field(description="Change when an image's place or batch changes.")


class DynamicSize(Document):
    """The image sizes that an artifact of dynamic size takes."""

    least: tuple[Side, Side] = Field(description="Least height and width, in pixels.")
    most: tuple[Side, Side] = Field(description="Largest height and width, in pixels.")
    step: int = Field(ge=1, description="Sides are multiples of it, in pixels.")
    verified: tuple[VerifiedSize, ...] = Field(
        description="Sizes that were verified beside the model's own."
    )


class Fidelity(Document):
    """How much of the model a low precision keeps, compared with the float64 reference."""

    source: str = Field(description="Name of the folder of images, or random for noise.")
    images: int = Field(description="Images compared; none set the scales if there were several.")
    relative_l2_error: float = Field(
        description="||y - r|| / ||r|| over all images, of the worst output."
    )
    top1_agreement_percent: float | None = Field(
        description="Share of images whose highest logit is the reference's, in per cent; None for "
        "detection."
    )


class Calibration(Document):
    """How the scales of an int8 artifact were set."""

    source: str = Field(description="Name of the folder of images, or random for noise.")
    images: int = Field(description="Images that set the scales.")
    method: str = Field(description="Tool, its version and its settings.")


class EngineInfo(Document):
    """A built engine: its builder, its target hardware, and what the builder logged."""

    module: str = Field(description="Python module that built it: tensorrt or tensorrt_rtx.")
    version: str = Field(description="Version of the module; no other version runs the engine.")
    gpu: str = Field(description="GPU that it was built on and for; empty for TensorRT-RTX.")
    compute_capabilities: tuple[str, ...] = Field(
        description="Compute capabilities it runs on, such as 8.9; empty for TensorRT."
    )
    batch: tuple[int, int, int] = Field(description="Least, best and most images per inference.")
    builder_level: int | None = Field(description="Optimisation level, 0-5; None for the default.")
    workspace_mib: int | None = Field(description="Scratch memory limit in MiB; None for no limit.")
    layers_before: int | None = Field(description="Layers before fusion; None if not known.")
    layers_after: int | None = Field(description="Layers after fusion; None if not logged.")
    output_dtypes: dict[str, int] = Field(description="Outputs by data type; empty if not logged.")
    weights_bytes: int | None = Field(description="Weight memory in bytes; None if not logged.")
    activation_bytes: int | None = Field(description="Activations, in bytes; None if not logged.")
    onnx_sha256: str = Field(description="SHA-256 of the ONNX file it was built from, if known.")
    build_s: float | None = Field(description="Time to build it, in seconds; None if not known.")


class Share(Document):
    """The cost of some nodes of a graph at batch 1."""

    nodes: int = Field(description="Number of nodes.")
    macs: int = Field(description="Multiply-accumulates.")
    weight_bytes: int = Field(description="Bytes of the weights that they read.")
    activation_bytes: int = Field(description="Bytes of the activations that they read and write.")


class GraphCost(Document):
    """MACs and bytes of the exported graph at batch 1; a tensor counts each time it is used."""

    by_operator: dict[str, Share] = Field(description="Cost by type of ONNX operator.")
    by_part: dict[str, Share] = Field(description='Cost by model part, such as "stage 2 mixer".')
    unknown_shapes: int = Field(description="Nodes with a tensor of unknown shape, counted as 0.")


class FusedLayer(Document):
    """A layer of an engine, as its builder names it."""

    name: str = Field(description="Name of the layer.")
    kind: str = Field(description="Type of the layer, in the builder's words.")
    part: str = Field("other", description='Part of the model, such as "stage 2 mixer".')
    onnx_nodes: tuple[str, ...] = Field(description="ONNX nodes it is made of; empty if not named.")
    input_dtypes: tuple[str, ...] = Field(description="Data types of its inputs.")
    weight_dtypes: tuple[str, ...] = Field(description="Data types of its weights; empty for none.")
    output_dtypes: tuple[str, ...] = Field(description="Data types of its outputs.")


class Operation(Document):
    """Identical multiplying nodes of a graph; logits inside an attention are left out."""

    operator: str = Field(description="Type of the ONNX operator, such as Conv.")
    part: str = Field(description='Part of the model, as in "stage 2 mixer"; other if unknown.')
    nodes: int = Field(description="Number of identical nodes.")
    macs: int = Field(description="Multiply-accumulates of one node for one image.")
    weight_elements: int = Field(description="Constant elements that one node reads, at any batch.")
    activation_elements: int = Field(description="Elements one node reads and writes per image.")


class Draft(Document):
    """What an exporter reports about the files it has just written."""

    files: tuple[str, ...] = Field(description="Names of the files, the main one first.")
    inputs: tuple[TensorInfo, ...] = Field(description="Inputs of the artifact.")
    outputs: tuple[TensorInfo, ...] = Field(description="Outputs of the artifact.")
    opset: int | None = Field(None, description="ONNX opset of the graph; None without a graph.")
    operators: dict[str, int] = Field(
        default_factory=dict, description="Nodes of its graph by type; empty without one."
    )
    versions: dict[str, str] = Field(default_factory=dict, description="Package versions, by name.")
    calibration: Calibration | None = Field(
        None, description="Calibration of the scales of int8; None for other precisions."
    )
    engine: EngineInfo | None = Field(None, description="Engine; None if none was built.")
    graph: str = Field("", description="Name of the ONNX file it was made from; empty without one.")
    graph_is_exact: bool = Field(True, description="Whether graph and artifact share a precision.")
    not_run: str = Field("", description="Reason why it cannot run here; empty if it can run.")


class Manifest(Sealed):
    """The document beside an artifact: what it is, how it was made and how exact it is."""

    schema_version: int = Field(MANIFEST_SCHEMA_VERSION, description="Version of this schema.")
    kind: Literal["stmdeploy-artifact"] = Field("stmdeploy-artifact", description="Document kind.")
    state: Literal["verified", "built, not run", "not verified"] = Field(
        description="Outcome: it ran and agreed with PyTorch, or cannot run where it was built; a "
        "file from elsewhere is not verified."
    )
    not_run: str = Field(description="Reason why it could not run; empty if it ran.")
    target: PlainText = Field(description="Target, as --target takes it.")
    precision: PlainText = Field(
        description="Precision: fp32, fp16, bf16, int8, int8-dynamic or fp8."
    )
    kept: tuple[PlainText, ...] = Field(
        (), description="Parts of the model that the precision leaves as they are; often empty."
    )
    lowering: PlainText = Field(
        description="Form exported: reference, tokens, tokens-plain or gpu; file if made elsewhere."
    )
    notes: tuple[str, ...] = Field(description="Reasons against better forms; often empty.")
    model: ModelInfo = Field(description="Model inside the artifact.")
    files: tuple[FileInfo, ...] = Field(min_length=1, description="Files, the main one first.")
    inputs: tuple[TensorInfo, ...] = Field(description="Inputs of the artifact.")
    outputs: tuple[TensorInfo, ...] = Field(description="Outputs of the artifact.")
    opset: int | None = Field(description="ONNX opset of the graph; None without a graph.")
    operators: dict[str, int] = Field(description="Nodes of its graph by type; empty without one.")
    versions: dict[str, str] = Field(description="Versions of the packages that made it, by name.")
    verification: Verification | None = Field(
        description="Comparison with the float64 reference; None of a file from elsewhere."
    )
    dynamic_size: DynamicSize | None = Field(
        description="Image sizes that it takes; None for that of the model alone."
    )
    choice: Choice | None = Field(
        None, description="How the precision of every part was chosen; None if it was asked for."
    )
    fidelity: Fidelity | None = Field(description="Fidelity of a low precision; None for fp32.")
    calibration: Calibration | None = Field(description="Calibration of int8; None otherwise.")
    engine: EngineInfo | None = Field(description="Engine; None if none was built.")
    cost: GraphCost | None = Field(
        description="Cost of the graph; None without a graph in the artifact's own precision."
    )
    operations: tuple[Operation, ...] = Field(
        description="Operators of the graph that multiply; empty without a graph."
    )
    created_utc: str = Field(description="Time when the manifest was made, UTC, ISO 8601.")
    export_s: float = Field(description="Time of the export in seconds, verification left out.")

    @property
    def proof(self) -> Verification:
        """The verification of an artifact that is no file from elsewhere."""
        assert self.verification is not None
        return self.verification
