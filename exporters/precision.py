"""Lower precisions of an ONNX file, by ONNX Runtime's own tools.

All precision lives in the graph: fp16 and bf16 as tensor types, int8 as QuantizeLinear and
DequantizeLinear around the products. Runtimes and builders are given no flag.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.artifact import Calibration
from stmdeploy.contracts import Work
from stmdeploy.errors import StmdeployError
from stmdeploy.quiet import quiet
from stmdeploy.spec import INPUT_NAME

from .onnx_graph import ROUNDS_NOTE, OnnxFile, described

if TYPE_CHECKING:
    import onnx

    from stmdeploy.contracts import Array

#: Constants of halo's position terms, by the names that `stmdeploy.lowering` gives them.
_POSITION_WEIGHTS = (".table", ".spread")
#: ONNX's float16 and bfloat16.
_SHORT_TYPES = (10, 16)
#: Products that int8 is for.
_PRODUCTS = ("Conv", "MatMul", "Gemm")
#: Squares of activations leave the range of float16 at 256, so a norm written out in single
#: operators stays in float32 from the first square to the scale.
_NORM_MODULE = "CentredNorm"
_CLASSES_NOTE = "pkg.torch.onnx.class_hierarchy"


def converted(file: OnnxFile, work: Work) -> OnnxFile:
    """The file in the precision that is asked for, written in its place.

    Raises:
        StmdeployError: (exit code 4) the converted graph is not valid.
    """
    precision = work.spec.precision
    if precision == "fp32":
        return file
    try:
        with quiet():
            if precision == "fp16":
                _to_fp16(file)
            elif precision == "bf16":
                _to_bf16(file)
            elif precision == "int8":
                assert work.images is not None
                _to_int8(file, work.images)
            else:
                _to_dynamic_int8(file)
    except (ValueError, RuntimeError, TypeError, KeyError, NotImplementedError) as error:
        raise StmdeployError(
            f"{work.spec.model.name} cannot be converted to {precision}: "
            f"{' '.join(str(error).split())[:200]}",
            "take another precision, or report the model",
        ) from error
    after = described(file.path, file.files[1:])
    return replace(after, versions={**after.versions, "onnxruntime": version("onnxruntime")})


def calibration_of(work: Work) -> Calibration | None:
    """What the scales of an int8 file were set with; None for other precisions."""
    if work.images is None:
        return None
    return Calibration(
        source=work.images_source,
        images=len(work.images),
        method=f"onnxruntime {version('onnxruntime')} quantize_static, symmetric, min-max, "
        "weights per channel, products of activations and position terms left in float32",
    )


def _save(model: onnx.ModelProto, file: OnnxFile) -> None:
    """Writes the model in place of a file, its weights beside it where they were."""
    import onnx

    if len(file.files) == 1:
        onnx.save(model, file.path)
        return
    beside = file.path.with_name(file.files[1])
    beside.unlink()
    onnx.save(model, file.path, save_as_external_data=True, location=beside.name)


def _to_fp16(file: OnnxFile) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(file.path)
    norms = [node.name for node in model.graph.node if _is_in_norm(node)]
    half = OnnxModel(convert_float_to_float16(model, keep_io_types=True, node_block_list=norms))
    half.topological_sort()  # The converter puts its casts at the end, and ...
    del half.model.graph.value_info[:]  # ... forgets the types of what it left in float32.
    _save(half.model, file)


def _is_in_norm(node: onnx.NodeProto) -> bool:
    return node.op_type != "RMSNormalization" and any(
        note.key == _CLASSES_NOTE and _NORM_MODULE in note.value for note in node.metadata_props
    )


def _to_bf16(file: OnnxFile) -> None:
    """Casts every float32 tensor; input and output stay float32."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(file.path)
    graph = model.graph
    # Scales of a Resize are float32 by definition.
    kept = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _cast_tensor(tensor)
    for node in graph.node:
        for attribute in () if kept & set(node.output) else node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _cast_tensor(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to":
                attribute.i = (
                    TensorProto.BFLOAT16 if attribute.i == TensorProto.FLOAT else attribute.i
                )
    del graph.value_info[:]
    first, last = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.input[:] = [f"{first}_bf16" if name == first else name for name in node.input]
        node.output[:] = [f"{last}_bf16" if name == last else name for name in node.output]
    before = helper.make_node("Cast", [first], [f"{first}_bf16"], to=TensorProto.BFLOAT16)
    after = helper.make_node("Cast", [f"{last}_bf16"], [last], to=TensorProto.FLOAT)
    nodes = [before, *graph.node, after]
    del graph.node[:]
    graph.node.extend(nodes)
    _save(model, file)


def emulated(path: Path) -> Path:
    """A float32 file beside a float16 or bfloat16 one, that rounds as it does. It stays there,
    for the next who asks; of a float32 file it is the same function.

    Every tensor that the original keeps in 16 bits is rounded to them where it is made, so
    that sums inside an operator are in float32, as on tensor cores. A CPU has no operators of
    16 bits, and ONNX Runtime's does not round between the ones of float32 that it takes
    instead: what overflows on a GPU would pass unseen.
    """
    import onnx
    from onnx import TensorProto, helper

    beside = path.with_name(f"{path.stem}.emulated.onnx")
    if beside.exists():
        return beside
    model = onnx.load(path)
    graph = model.graph
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    short = {name: kind for name, kind in kinds.items() if kind in _SHORT_TYPES}
    nodes = []
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif node.op_type == "Cast" and attribute.i in _SHORT_TYPES:
                attribute.i = TensorProto.FLOAT
        made = [name for name in node.output if name in short]
        node.output[:] = [f"{name}_exact" if name in short else name for name in node.output]
        nodes.append(copy.deepcopy(node))
        for name in made:
            half = f"{name}_half"
            rounding = helper.make_node("Cast", [f"{name}_exact"], [half], to=short[name])
            widening = helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT)
            for cast in (rounding, widening):
                cast.metadata_props.extend(node.metadata_props)
                cast.metadata_props.add(key=ROUNDS_NOTE, value=f"{node.op_type} {node.name}")
            nodes += [rounding, widening]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.save(model, beside, save_as_external_data=True, location=f"{beside.name}.data")
    return beside


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    from onnx import numpy_helper

    if tensor.data_type in _SHORT_TYPES:
        values = numpy_helper.to_array(tensor).astype("float32")
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _cast_tensor(tensor: onnx.TensorProto) -> None:
    import ml_dtypes
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.FLOAT:
        values = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values, name))


class _Images:
    """Calibration images one by one, as onnxruntime's quantizer asks for them."""

    def __init__(self, images: Array) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """The next input, or None after the last."""
        image = next(self._images, None)
        return None if image is None else {INPUT_NAME: image[None]}


def _to_int8(file: OnnxFile, images: Array) -> None:
    """Symmetric, a scale per output channel of weights, in the form that TensorRT reads."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(dir=file.path.parent) as scratch:
        source = _moved(file, Path(scratch))
        quantize_static(
            source,
            file.path,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_PRODUCTS),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_products_left(source),
            use_external_data_format=len(file.files) > 1,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
            },
        )


def _products_left(path: Path) -> list[str]:
    """Products that stay in float32: those without a weight, the two of attention, whose
    softmax has no good int8 scale; and the position terms of halo, whose mask would set it."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul"
        and (
            not weights & set(node.input)
            or any(name.endswith(_POSITION_WEIGHTS) for name in node.input)
        )
    ]


def _to_dynamic_int8(file: OnnxFile) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=file.path.parent) as scratch:
        source = _moved(file, Path(scratch))
        quantize_dynamic(
            source,
            file.path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_products_left(source),
            use_external_data_format=len(file.files) > 1,
        )


def _moved(file: OnnxFile, folder: Path) -> Path:
    """Moves a file and its weights out of the way of what is made of it."""
    for name in file.files:
        (file.path.parent / name).rename(folder / name)
    return folder / file.path.name
