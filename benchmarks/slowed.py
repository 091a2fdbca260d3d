"""A slower copy of an ONNX artifact that computes the same: real layers added to its graph.

Each added layer multiplies the output of the last mlp by an identity matrix: the outputs stay
what they were, and the time of a matrix product is added.

Run: python -m benchmarks.slowed ARTIFACT FOLDER LAYERS
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from stmdeploy.schema.artifact import file_info, manifest_path, read_artifact


def last_product(model: onnx.ModelProto) -> tuple[onnx.NodeProto, int]:
    """The last product with a matrix before the head, and the width of its output."""
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    logits = {output.name for output in model.graph.output}
    for node in reversed(model.graph.node):
        if node.op_type in ("Gemm", "MatMul") and node.output[0] not in logits:
            shape = weights.get(node.input[1], ())
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            if len(shape) == 2:
                return node, shape[0 if turned else 1]
    raise ValueError("the graph has no product to slow down")


def slow_down(artifact: Path, folder: Path, layers: int) -> Path:
    """Writes a copy of an artifact with so many identity products more, manifest included.

    Returns:
        The copy, under the same name in another folder.
    """
    source = read_artifact(artifact)
    model = onnx.load(artifact)
    node, width = last_product(model)
    identity = numpy_helper.from_array(np.eye(width, dtype=np.float32), "added_identity")
    model.graph.initializer.append(identity)
    at = list(model.graph.node).index(node) + 1
    name = node.output[0]
    node.output[0] = f"{name}_slowed_0"
    for i in range(layers):
        output = name if i == layers - 1 else f"{name}_slowed_{i + 1}"
        model.graph.node.insert(
            at + i, helper.make_node("MatMul", [f"{name}_slowed_{i}", identity.name], [output])
        )
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / artifact.name
    onnx.save(model, copy)
    manifest = source.manifest.model_copy(update={"files": (file_info(copy),)}).sealed()
    manifest_path(copy).write_text(manifest.model_dump_json(indent=1), "utf-8")
    return copy


if __name__ == "__main__":
    print(slow_down(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
