"""Converts ONNX files to lower precisions with ONNX Runtime's own tools.

All precision lives in the graph: fp16 and bf16 as tensor types, int8 as QuantizeLinear and
DequantizeLinear around the products. Runtimes and builders get no flag for it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import one_line
from stmdeploy.plugins.exporter import Work
from stmdeploy.plugins.quiet import quiet
from stmdeploy.schema.manifest import Calibration, Draft

from .onnx_graph import ROUNDS_NOTE, described, notes_of
from .operator_times import nodes_of_parts
from .quantised import How, in_fp8, to_int8

if TYPE_CHECKING:
    import onnx

#: ONNX's float16 and bfloat16.
_SHORT_TYPES = (10, 16)
#: Work on positions, which 16 bits are too coarse for: see `stmdeploy.backbones.lowering.dcn`.
_FINE_MODULE = "FineNeighbours"
#: Products: what a grid of positions is made of begins with one.
_PRODUCTS = ("Conv", "Gemm", "MatMul")
#: Squares of activations from 256 on overflow float16, so a norm that is written out in single
#: operators, those of these classes, stays in float32 from the square to the scale.
_NORM_MODULES = ("CentredNorm", "MapNorm")
_CLASSES_NOTE = "pkg.torch.onnx.class_hierarchy"


def converted(draft: Draft, work: Work, *, rest_of_int8: str = "fp32") -> Draft:
    """Converts the ONNX file of a draft, in place, to the precision that is asked for.

    Args:
        rest_of_int8: what int8 leaves is ``fp32``, or ``fp16``: integer products between 16 bits.

    Raises:
        StmdeployError: the converter refuses the graph; (exit code 4) its result is not valid.
    """
    precision, path, data = work.spec.precision, work.folder / draft.graph, draft.files[1:]
    if precision == "fp32":
        return draft
    kept = nodes_of_parts(path, work.spec.keep)
    try:
        with quiet():
            if precision == "fp16":
                _save(_in_fp16(path, kept), path, data)
            elif precision == "bf16":
                _save(_in_bf16(path, kept), path, data)
            else:
                assert precision == "int8-dynamic" or work.images is not None
                how = How(precision == "fp8", kept, work.spec.ranges)
                to_int8(path, data, work.images, how)
                if precision == "fp8":
                    _save(in_fp8(path), path, data)
                if rest_of_int8 == "fp16":
                    _save(_in_fp16(path, ()), path, data)
    except (ValueError, RuntimeError, TypeError, KeyError, NotImplementedError) as error:
        raise StmdeployError(
            f"{work.spec.model.name} cannot become {precision}: {one_line(str(error))[:200]}",
            "take another --precision, or report the model",
        ) from error
    after = described(path, data)
    runtime = version("onnxruntime")
    known: dict[str, object] = {"versions": {**after.versions, "onnxruntime": runtime}}
    if work.images is not None:
        known["calibration"] = Calibration(
            source=work.images_source,
            images=len(work.images),
            method=f"onnxruntime {runtime} quantize_static, symmetric, min-max, weights per "
            "channel, products of activations and position terms left out, the rest in "
            f"{rest_of_int8}",
        )
    return after.model_copy(update=known)


def _save(model: onnx.ModelProto, path: Path, data: tuple[str, ...]) -> None:
    """Overwrites a file with a model, and the file of its weights if it has one."""
    import onnx

    for name in data:
        path.with_name(name).unlink()
    onnx.save(model, path, save_as_external_data=bool(data), location=data[0] if data else None)


def _in_fp16(path: Path, kept: Iterable[str]) -> onnx.ModelProto:
    """Casts everything but norms, samples and their positions, and some named nodes, to float16;
    input and output stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(path)
    exact = [node.name for node in model.graph.node if _is_plain_norm(node)]
    exact += [node.name for node in _of_positions(model.graph)]
    exact = list(dict.fromkeys([*exact, *kept]))
    half: onnx.ModelProto = convert_float_to_float16(
        model, keep_io_types=True, node_block_list=exact
    )
    _remove_detours(half.graph)
    OnnxModel(half).topological_sort()  # The converter puts its casts at the end, and ...
    del half.graph.value_info[:]  # ... forgets the types of what it left in float32.
    return half


def _is_plain_norm(node: onnx.NodeProto) -> bool:
    """Whether a node is of a norm that is written out in single operators."""
    classes = notes_of(node).get(_CLASSES_NOTE, "")
    written_out = any(module in classes for module in _NORM_MODULES)
    return written_out and node.op_type != "RMSNormalization"


def _exact(graph: onnx.GraphProto, kept: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that stay in float32: those of positions, and some named ones."""
    names = {*kept, *(node.name for node in _of_positions(graph))}
    return [node for node in graph.node if node.name in names]


def _of_positions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that sample, and those between the last product and the positions they sample at:
    in 16 bits, positions are up to a tenth of a pixel off, and no GPU runtime but TensorRT has a
    GridSample of 16 bits."""
    made = {name: node for node in graph.node for name in node.output}
    found: dict[str, onnx.NodeProto] = {}

    def walk(name: str) -> None:
        node = made.get(name)
        if node is not None and node.op_type not in _PRODUCTS and node.name not in found:
            found[node.name] = node
            for above in node.input:
                walk(above)

    for node in graph.node:
        if node.op_type == "GridSample":
            found[node.name] = node
            walk(node.input[1])
        elif _FINE_MODULE in notes_of(node).get(_CLASSES_NOTE, ""):
            found[node.name] = node
    return list(found.values())


def _remove_detours(graph: onnx.GraphProto) -> None:
    """Lets neighbours that stay in float32 hand on float32, in place: the converter rounds between
    them to float16 and widens again."""
    from onnx import TensorProto

    def cast_to(kind: int) -> dict[str, str]:
        return {
            node.output[0]: node.input[0]
            for node in graph.node
            if node.op_type == "Cast"
            and any(a.name == "to" and a.i == kind for a in node.attribute)
        }

    widened, rounded = cast_to(TensorProto.FLOAT), cast_to(TensorProto.FLOAT16)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if (source := rounded.get(widened.get(name, ""))) is not None:
                node.input[place] = source
    kept = {output.name for output in graph.output}
    while True:
        read = kept.union(*(node.input for node in graph.node))
        dead = [n for n in graph.node if n.op_type == "Cast" and n.output[0] not in read]
        if not dead:
            return
        for node in dead:
            graph.node.remove(node)


def _in_bf16(path: Path, kept: Iterable[str]) -> onnx.ModelProto:
    """Casts every float32 tensor to bfloat16 but those of positions and of some named nodes; input
    and output stay float32."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path)
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    floats = {v.name for v in inferred if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    _give_own_constants(graph, _exact(graph, kept))
    exact = {node.name for node in _exact(graph, kept)}
    # Scales of a Resize are float32 by definition.
    floating = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    floating |= {name for node in graph.node if node.name in exact for name in node.input}
    _retype(
        (tensor for tensor in graph.initializer if tensor.name not in floating),
        (node for node in graph.node if not floating & set(node.output) and node.name not in exact),
        (TensorProto.FLOAT,),
        TensorProto.BFLOAT16,
    )
    del graph.value_info[:]
    first, last = graph.input[0].name, [output.name for output in graph.output]
    renamed = {name: f"{name}_bf16" for name in (first, *last)}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    before = helper.make_node("Cast", [first], [renamed[first]], to=TensorProto.BFLOAT16)
    graph.node.insert(0, before)
    graph.node.extend(
        helper.make_node("Cast", [renamed[name]], [name], to=TensorProto.FLOAT) for name in last
    )
    _cast_around(graph, exact, floats)
    return model


def _give_own_constants(graph: onnx.GraphProto, exact: Iterable[onnx.NodeProto]) -> None:
    """Gives nodes constants of their own, in place, where others read them too."""
    import onnx

    exact = list(exact)
    names = {node.name for node in exact}
    read = {name for node in graph.node if node.name not in names for name in node.input}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in exact:
        for place, name in enumerate(node.input):
            if name in constants and name in read:
                own = f"{name}_exact"
                if own not in constants:
                    copied = onnx.TensorProto()
                    copied.CopyFrom(constants[name])
                    copied.name = own
                    graph.initializer.append(copied)
                    constants[own] = copied
                node.input[place] = own


def _cast_around(graph: onnx.GraphProto, exact: set[str], floats: set[str]) -> None:
    """Casts, in place, what nodes in float32 read to it, and what others read of them to
    bfloat16.

    Args:
        exact: the names of those nodes.
        floats: the tensors that were float32.
    """
    from onnx import TensorProto, helper

    made = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    cast: set[str] = set()
    for node in graph.node:
        inside = node.name in exact
        for place, name in enumerate(node.input):
            if name not in made or name not in floats or (made[name].name in exact) == inside:
                continue
            to, mark = (TensorProto.FLOAT, "wide") if inside else (TensorProto.BFLOAT16, "short")
            own = f"{name}_{mark}"
            if own not in cast:
                cast.add(own)
                nodes.append(helper.make_node("Cast", [name], [own], f"{own}_cast", to=to))
                nodes[-1].metadata_props.extend(node.metadata_props)
            node.input[place] = own
        nodes.append(node)
    copied = [copy.deepcopy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copied)


def _retype(
    tensors: Iterable[onnx.TensorProto],
    nodes: Iterable[onnx.NodeProto],
    kinds: tuple[int, ...],
    to: int,
) -> None:
    """Changes, in place, the data type of tensors, and of the constants and casts of nodes:
    where it is one of `kinds`, to ONNX's float32 or bfloat16."""
    import ml_dtypes
    from onnx import AttributeProto, TensorProto, numpy_helper

    dtype = "float32" if to == TensorProto.FLOAT else ml_dtypes.bfloat16
    constants = []
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                constants.append(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in kinds:
                attribute.i = to
    for tensor in (*tensors, *constants):
        if tensor.data_type in kinds:
            values = numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def emulated(path: Path) -> Path:
    """Writes a float32 file, ``STEM.emulated.onnx``, that rounds as a float16 or bfloat16 one does;
    keeps one that is there. Of a float32 file it is the same function.

    Every tensor that the original keeps in 16 bits is rounded to them where it is made, so that
    sums inside an operator are in float32, as on tensor cores. A CPU has no 16-bit operators, and
    ONNX Runtime does not round between the float32 ones that it takes instead: what overflows on a
    GPU would pass unseen.
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
    _retype(graph.initializer, graph.node, _SHORT_TYPES, TensorProto.FLOAT)
    nodes = []
    for node in graph.node:
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
