"""Bounds of graphs that are small enough to be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from stmdeploy.artifacts.graph import operations
from stmdeploy.errors import StmdeployError
from stmdeploy.hardware.profiles import peaks_of, profiles
from stmdeploy.hardware.roofline import bound, memory_s
from stmdeploy.schema.hardware import MemoryLevel, Peaks, Rate
from stmdeploy.schema.manifest import Operation

MIB = 2**20


def peaks(
    *memory: tuple[float | None, float | None], fp32: float = 1.0, fp16: float = 4.0
) -> Peaks:
    """1 TFLOP/s in float32, 4 in float16."""
    return Peaks(
        kind="measured",
        source="test",
        rates=(
            Rate(precision="fp32", tflops=fp32, by="test"),
            Rate(precision="fp16", tflops=fp16, by="test"),
        ),
        memory=tuple(MemoryLevel(up_to_mib=size, gb_s=speed) for size, speed in memory),
    )


def saved(
    folder: Path,
    nodes: list[onnx.NodeProto],
    shapes: dict[str, list[str | int | None]],
    **weights: object,
) -> Path:
    """An ONNX file: the first shape is its input, the last its output."""
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    initializers = [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[-1:], initializers)
    path = folder / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_a_product_limited_by_compute_and_one_limited_by_memory(tmp_path: Path) -> None:
    # x (b, 8, 16) @ w (16, 1000) -> relu -> @ v (1000, 2)
    path = saved(
        tmp_path,
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["y"]),
        ],
        {"x": ["b", 8, 16], "y": ["b", 8, 2]},
        w=np.ones((16, 1000), np.float32),
        v=np.ones((1000, 2), np.float32),
    )
    first, second = operations(path)
    assert (first.macs, first.weight_elements) == (8 * 16 * 1000, 16 * 1000)
    assert first.activation_elements == 8 * 16 + 8 * 1000
    assert (second.macs, second.weight_elements) == (8 * 1000 * 2, 2000)
    assert second.activation_elements == 8 * 1000 + 8 * 2
    # Everything comes at 10 GB/s; batch 3. Compute: 2 * 128,000 * 3 / 1e12 = 0.768 us and
    # 2 * 16,000 * 3 / 1e12 = 0.096 us. Memory: 4 * (16,000 + 3 * 8,128) / 1e10 = 16.1536 us and
    # 4 * (2,000 + 3 * 8,016) / 1e10 = 10.4192 us.
    found = bound((first, second), 3, "fp32", peaks((None, 10.0)))
    assert found.compute_ms == pytest.approx(0.768e-3 + 0.096e-3)
    assert found.memory_ms == pytest.approx(16.1536e-3 + 10.4192e-3)
    assert found.bound_ms == pytest.approx(16.1536e-3 + 10.4192e-3)
    assert found.macs == 3 * (128_000 + 16_000)
    assert found.bytes == 4 * (16_000 + 2_000 + 3 * (8_128 + 8_016))
    # At 1000 GB/s the first is limited by compute, the second still by memory.
    fast = bound((first, second), 3, "fp32", peaks((None, 1000.0)))
    assert fast.bound_ms == pytest.approx(0.768e-3 + 0.104192e-3)


def test_a_convolution_and_an_attention(tmp_path: Path) -> None:
    """The logits and their softmax stay inside; the second product reads its values alone."""
    path = saved(
        tmp_path,
        [
            helper.make_node("Conv", ["x", "w"], ["c"], group=4, pads=[1, 1, 1, 1]),
            helper.make_node("Reshape", ["c", "shape"], ["t"]),
            helper.make_node("Transpose", ["t"], ["k"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["k", "t"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["p"]),
            helper.make_node("MatMul", ["p", "k"], ["y"]),
        ],
        {"x": ["b", 4, 5, 5], "y": ["b", 25, 4]},
        w=np.ones((4, 1, 3, 3), np.float32),
        shape=np.array([0, 4, 25]),
    )
    conv, products = operations(path)  # the two products of the attention are alike
    assert (conv.operator, conv.macs, conv.weight_elements) == ("Conv", 100 * 9, 36)
    assert conv.activation_elements == 100 + 100
    assert (products.operator, products.nodes, products.weight_elements) == ("MatMul", 2, 0)
    assert (products.macs, products.activation_elements) == (25 * 25 * 4, 100 + 100)


def test_what_depends_on_no_input_costs_nothing(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        [
            helper.make_node("MatMul", ["w", "v"], ["folded"]),
            helper.make_node("MatMul", ["x", "folded"], ["y"]),
            helper.make_node("MatMul", ["y", "folded"], ["z"]),
        ],
        {"x": ["b", 6], "z": ["b", 6]},
        w=np.ones((6, 2), np.float32),
        v=np.ones((2, 6), np.float32),
    )
    (alike,) = operations(path)
    assert (alike.nodes, alike.macs, alike.weight_elements) == (2, 36, 36)


def test_a_precision_changes_bytes_and_rate() -> None:
    op = Operation(
        operator="MatMul", part="head", nodes=1, macs=10**9,
        weight_elements=10**6, activation_elements=0,
    )  # fmt: skip
    machine = peaks((None, 1.0))
    assert bound([op], 1, "fp32", machine).bound_ms == pytest.approx(4.0)  # 4 MB at 1 GB/s
    half = bound([op], 1, "fp16", machine)
    assert half.bound_ms == pytest.approx(2.0)
    assert half.compute_ms == pytest.approx(0.5)
    assert half.parts_ms == {"head": half.bound_ms}
    # A processor whose float16 is slower may compute in float32.
    assert bound([op], 1, "fp16", peaks((None, 1.0), fp16=0.1)).rate.precision == "fp32"
    with pytest.raises(StmdeployError, match="no rate for bf16"):
        bound([op], 1, "bf16", machine)


def test_bytes_that_a_cache_holds_are_free() -> None:
    memory = (MemoryLevel(up_to_mib=10, gb_s=None), MemoryLevel(up_to_mib=None, gb_s=1.0))
    assert memory_s(10 * MIB, memory) == 0.0
    assert memory_s(12 * MIB, memory) == pytest.approx(2 * MIB / 1e9)
    # Three operators of 6 MiB of weights: 8 of 18 MiB come from memory, of each its share.
    op = Operation(
        operator="MatMul", part="stem", nodes=3, macs=1,
        weight_elements=6 * MIB // 4, activation_elements=1,
    )  # fmt: skip
    found = bound([op], 1, "fp32", peaks((10, None), (None, 1.0)))
    assert found.bound_ms == pytest.approx(1e3 * 8 * MIB / 1e9)


def test_missing_weights_hide_behind_products() -> None:
    """Two operators of 4 MiB of weights, half of which the cache keeps: the one that multiplies
    for long takes what is missing."""
    ops = [
        Operation(
            operator="MatMul", part=part, nodes=1, macs=macs,
            weight_elements=MIB, activation_elements=0,
        )
        for part, macs in (("long", 10**10), ("short", 1))
    ]  # fmt: skip
    found = bound(ops, 1, "fp32", peaks((4, None), (None, 1.0)))
    assert found.bound_ms == pytest.approx(20.0)  # 4.19 ms of reading are hidden in 20 ms
    assert found.memory_ms == pytest.approx(1e3 * 4 * MIB / 1e9)
    slow = bound(ops, 1, "fp32", peaks((4, None), (None, 0.1)))
    # At a tenth of the speed 41.9 ms are missing: 20 of them behind the product.
    assert slow.bound_ms == pytest.approx(1e3 * 4 * MIB / 1e8)
    assert sum(slow.parts_ms.values()) == pytest.approx(slow.bound_ms)


@given(
    st.floats(0, 1e10),
    st.floats(0, 1e10),
    st.lists(st.floats(0.1, 1e3), min_size=1, max_size=4),
)
def test_more_bytes_never_take_less(size: float, more: float, speeds: list[float]) -> None:
    levels = [
        MemoryLevel(up_to_mib=4.0**i if i < len(speeds) - 1 else None, gb_s=speed)
        for i, speed in enumerate(sorted(speeds, reverse=True))
    ]
    assert memory_s(size + more, levels) >= memory_s(size, levels)
    assert memory_s(size, levels) <= size / (min(speeds) * 1e9) * (1 + 1e-9)


def test_the_datasheet_of_a_gpu_as_peaks() -> None:
    found = peaks_of(profiles()["a100-80gb"])
    assert found.kind == "datasheet"
    assert found.memory[-1].gb_s == 2039
    op = Operation(
        operator="MatMul", part="head", nodes=1, macs=156 * 10**9,
        weight_elements=1, activation_elements=1,
    )  # fmt: skip
    assert bound([op], 1, "fp16", found).bound_ms == pytest.approx(1.0)  # 312 TFLOP/s
    assert bound([op], 1, "fp32", found).bound_ms == pytest.approx(16.0)  # 19.5, TF32 is off
