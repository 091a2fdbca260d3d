"""From a torch module to an ONNX file, by torch's current exporter."""

from __future__ import annotations

from ast import literal_eval
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.plugins.exporter import Work
from stmdeploy.plugins.quiet import quiet
from stmdeploy.schema.manifest import Draft, ModelInfo, TensorInfo
from stmdeploy.schema.onnx_files import PART_NOTE
from stmdeploy.spec.export import HIGHEST_INT8_OPSET, LOWEST_OPSET, QUANTISED, ExportSpec
from stmdeploy.spec.model import INPUT_NAME

if TYPE_CHECKING:
    import onnx
    from torch import nn

#: The default opset, if the form allows it, and the highest one that is accepted.
OPSETS = (20, 23)
#: The first opset whose Conv takes bfloat16.
BF16_OPSET = 22
#: Larger weights, in bytes, go into a file beside the graph: protobuf ends at 2 GiB.
EXTERNAL_DATA_BYTES = 2**31 - 2**25
#: The note on a node that only rounds another node's output; it names that other node.
ROUNDS_NOTE = "stmdeploy.rounds"
_SCOPES_NOTE = "pkg.torch.onnx.name_scopes"
#: A note with paths of the exporting machine, which is dropped.
_PRIVATE_NOTE = "pkg.torch.onnx.stack_trace"
#: Names of the mlp's modules in both forms, reference and lowered.
_MLP = frozenset({"mlp", "pwconv1", "pwconv2"})


def write_onnx(work: Work, suffix: str) -> Draft:
    """Exports a module in float32, for any batch size, as ``spec.stem + suffix``, and checks it
    with full shape inference. Weights of nearly 2 GiB or more go into a second file.

    Raises:
        StmdeployError: opset out of range, torch cannot export the module, or the graph fixes the
            batch size; (exit code 4) the graph is not valid.
    """
    path, opset = work.folder / (work.spec.stem + suffix), _opset(work)
    program = _traced(work, opset)
    _annotate(program.model, work.info, work.spec)
    if work.spec.dynamic_size:
        _name_sides(program.model, work)
    external = _weight_bytes(work.module) > EXTERNAL_DATA_BYTES
    program.save(path, external_data=external)
    written = described(path, (path.name + ".data",) if external else ())
    batch = written.inputs[0].shape[0]
    if not isinstance(batch, str):
        raise StmdeployError(
            f"{work.spec.model.name} only exports for {batch} images at a time",
            "change its forward so that it does not depend on the batch size",
        )
    return written


def described(path: Path, data: tuple[str, ...] = ()) -> Draft:
    """Checks an ONNX file with strict shape inference, and describes it.

    ``data``: the names of the files beside it that hold its weights, if any.

    Raises:
        StmdeployError: (exit code 4) the graph is not valid.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StmdeployError(
            f"the exported graph is not valid ONNX: {error}",
            "try another --opset, and report the model",
            ExitCode.OUTPUTS_DIFFER,
        ) from error
    model = onnx.load(path, load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return Draft(
        files=(path.name, *data),
        inputs=tuple(_tensor_info(value) for value in model.graph.input),
        outputs=tuple(_tensor_info(value) for value in model.graph.output),
        opset=opset,
        operators=dict(Counter(node.op_type for node in model.graph.node).most_common()),
        versions={name: version(name) for name in ("torch", "onnx", "onnxscript")},
        graph=path.name,
    )


def graph_of(path: Path) -> onnx.GraphProto:
    """The graph of an ONNX file, without weights from other files."""
    import onnx

    return onnx.load(path, load_external_data=False).graph


def notes_of(node: onnx.NodeProto) -> dict[str, str]:
    """The metadata of a node, by key."""
    return {note.key: note.value for note in node.metadata_props}


def _opset(work: Work) -> int:
    """The opset asked for; by default 20, or the lowest that the form and the precision need."""
    default, highest = OPSETS
    if work.spec.precision in QUANTISED:
        highest = HIGHEST_INT8_OPSET
    least = max(LOWEST_OPSET[work.form], BF16_OPSET if work.spec.precision == "bf16" else 0)
    opset = max(default, least) if work.spec.opset is None else work.spec.opset
    if not least <= opset <= highest:
        fixed = work.spec.lowering or work.spec.precision == "bf16"
        lowest = least if fixed else min(LOWEST_OPSET.values())
        raise StmdeployError(f"--opset {opset} cannot be written", f"choose {lowest} to {highest}")
    return opset


#: The latest traces and their bytes, oldest first, by model, weights, form and opset: one trace
#: serves every precision and target. They hold the weights, so only `_KEPT_BYTES` are kept.
_traces: dict[object, tuple[Any, int]] = {}
_KEPT_BYTES = 2**28
#: The size that a file of dynamic size is traced at: its sides differ, and every stage has more
#: than one window each way, so that the tracer takes nothing for a constant.
_TRACED_SIZE = (288, 320)


def _traced(work: Work, opset: int) -> Any:
    key = (
        work.spec.model, work.info.weights.sha256, work.form, opset, work.spec.dynamic_size
    )  # fmt: skip
    if key not in _traces:
        size = _weight_bytes(work.module)
        while _traces and size + sum(kept for _, kept in _traces.values()) > _KEPT_BYTES:
            del _traces[next(iter(_traces))]
        _traces[key] = (_trace(work, opset), size)
    return _traces[key][0]


def _trace(work: Work, opset: int) -> Any:
    import torch

    spec = work.spec
    size, dynamic = spec.model.image_size, {0: torch.export.Dim("batch", min=1)}
    if spec.dynamic_size:
        size = _TRACED_SIZE
        for place, name in ((2, "height"), (3, "width")):
            steps = torch.export.Dim(name, min=1, max=spec.sizes.most[place - 2] // spec.sizes.step)
            dynamic[place] = spec.sizes.step * steps
    # Two images, so that the tracer cannot mistake the batch for a constant one.
    example = torch.zeros(2, 3, *size)
    try:
        with quiet("torch.onnx"), torch.no_grad():
            return torch.onnx.export(
                work.module,
                (example,),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[output.name for output in work.outputs],
                dynamic_shapes=(dynamic,),
                opset_version=opset,
                verbose=False,
                custom_translation_table=_translations(),
            )
    except torch.onnx.OnnxExporterError as error:
        raise StmdeployError(
            f"{spec.model.name} cannot be exported to ONNX: {error}",
            "change the module so that torch.export can trace it for any batch size",
        ) from error


def _translations() -> dict[Any, Any]:
    """The ONNX translations of the custom operators of lowered modules."""
    import torch

    ops = torch.ops.stmdeploy
    written = {"attention": _attention, "deform_conv": _deform_conv, "rms_norm": _rms_norm}
    return {getattr(ops, name).default: how for name, how in written.items() if hasattr(ops, name)}


def _attention(q: Any, k: Any, v: Any, bias: Any, heads: int) -> Any:
    from onnxscript import opset23 as op

    # Its other outputs belong to a key-value cache, which is not used here.
    mixed, *_ = op.Attention(q, k, v, bias, q_num_heads=heads, kv_num_heads=heads, scale=1.0)
    return mixed


def _rms_norm(x: Any, weight: Any, eps: float) -> Any:
    from onnxscript import opset23 as op

    return op.RMSNormalization(x, weight, epsilon=eps)


def _deform_conv(value: Any, offset: Any, logits: Any, groups: int) -> Any:
    """DeformConv with a depth-wise 3x3 kernel of ones: the weighted sum of nine samples."""
    import numpy as np
    import onnx
    from onnxscript import opset19 as op

    def constant(values: Any) -> Any:
        return op.Constant(value=onnx.numpy_helper.from_array(np.asarray(values)))

    _, channels, height, width = value.shape
    nine = op.Softmax(op.Reshape(logits, constant([-1, height * width, groups, 9])), axis=-1)
    mask = op.Transpose(nine, perm=[0, 2, 3, 1])
    return op.DeformConv(
        value,
        constant(np.ones((channels, 1, 3, 3), np.float32)),
        op.Reshape(offset, constant([-1, groups * 18, height, width])),
        None,
        op.Reshape(mask, constant([-1, groups * 9, height, width])),
        group=channels,
        offset_group=groups,
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
    )


def _annotate(model: Any, info: ModelInfo, spec: ExportSpec) -> None:
    """Notes in `metadata_props` what the model is, and on every node its part of the model; drops
    notes that name local paths."""
    for node in model.graph.all_nodes():
        scopes = literal_eval(node.metadata_props.get(_SCOPES_NOTE, "[]"))
        if scopes:  # Nodes that the exporter added belong to what they read.
            node.metadata_props[PART_NOTE] = part_of(scopes)
        node.metadata_props.pop(_PRIVATE_NOTE, None)
    model.metadata_props.update(
        {
            "stmdeploy.version": version("stmdeploy"),
            "stmdeploy.model": info.name,
            "stmdeploy.scale": info.scale,
            "stmdeploy.image_size": "x".join(map(str, info.pixels)),
            "stmdeploy.precision": spec.precision,
            "stmdeploy.weights": info.weights.kind,
            "stmdeploy.weights_sha256": info.weights.sha256,
            "stmdeploy.checkpoint_sha256": info.weights.checkpoint_sha256 or "",
        }
    )


def _name_sides(model: Any, work: Work) -> None:
    """Names the free sides of a graph's input and outputs as the draft does, by the image's."""
    import onnx_ir as ir

    image = ("batch", 3, "height", "width")
    shapes = [image, *(output.shape for output in work.outputs)]
    for value, shape in zip((*model.graph.inputs, *model.graph.outputs), shapes, strict=True):
        value.shape = ir.Shape(shape)


def part_of(scopes: list[str]) -> str:
    """The part of the model that a node belongs to.

    Args:
        scopes: dotted names of the modules around it, outermost first, then its own name.

    ``["", "stages.1", "stages.1.blocks.0", "stages.1.blocks.0.mlp", "gelu"]`` gives "stage 2
    mlp": stages count from 1, as in the paper.
    """
    path = max(scopes[1:-1], key=len, default="").removeprefix("backbone.").split(".")
    place = path[1] if len(path) > 1 and path[1].isdecimal() else ""
    if path[0] in ("downsample_layers", "entries") and place:
        return "stem" if place == "0" else f"stage {int(place) + 1} downsample"
    if path[0] == "stage_norms" and place:
        return f"stage {int(place) + 1} norm"
    if path[0].startswith("out_norm_"):
        return f"stage {int(path[0].removeprefix('out_norm_')) + 1} norm"
    if path[0] == "stages" and place:
        inner = [name for name in path[2:] if name != "blocks"]
        kind = "mlp" if _MLP & set(inner) else "mixer" if inner[:1] != ["norm"] else "norm"
        return f"stage {int(place) + 1} {kind if inner else 'norm'}"
    if path[0] in ("conv_head", "head"):
        return "head"
    return " ".join(filter(None, (path[0], place))) or "top level"


def _weight_bytes(module: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in module.state_dict().values())


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    import onnx

    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return TensorInfo(name=value.name, dtype=str(dtype), shape=shape)
