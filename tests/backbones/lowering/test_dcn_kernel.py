"""The Triton kernel: right under Triton's interpreter, and compiled for four kinds of GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stmdeploy import create_backbone
from stmdeploy.backbones.mixers.dcn import POINTS, sample_plainly
from stmdeploy.backbones.synthetic import fill_synthetic

triton = pytest.importorskip("triton")
dcn_kernel = pytest.importorskip("stmdeploy.backbones.lowering.dcn_kernel")

DTYPES = {torch.float32: ("fp32", 1e-5), torch.float16: ("fp16", 2e-3),
          torch.bfloat16: ("bf16", 2e-2)}  # fmt: skip
#: Compute capabilities, each with a precision, that it is compiled for by day.
BY_DAY = {(80, "fp32"), (90, "fp16"), (120, "bf16")}


def inputs(
    n: int, h: int, w: int, heads: int, channels: int, dtype: torch.dtype, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, offsets (far beyond the map, some of them), logits."""
    made = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made).to(dtype)

    return (
        random(n, h, w, heads * channels),
        random(n, h, w, heads * POINTS * 2) * 3,
        random(n, h, w, heads * POINTS) * 2,
    )


def expected(value: Tensor, offsets: Tensor, logits: Tensor, heads: int) -> Tensor:
    """In float64, from the same rounded inputs."""
    n, h, w, _ = value.shape
    return sample_plainly(
        value.double(),
        offsets.double().reshape(n, h * w, heads, POINTS, 2),
        logits.double().reshape(n, h * w, heads, POINTS),
    )


@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(1, 2),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    heads=st.integers(1, 3),
    channels=st.sampled_from([4, 12, 16]),
    dtype=st.sampled_from(list(DTYPES)),
    seed=st.integers(0, 2**31),
)
def test_the_kernel_is_the_mixer(
    n: int, h: int, w: int, heads: int, channels: int, dtype: torch.dtype, seed: int
) -> None:
    from triton.runtime.interpreter import InterpretedFunction

    value, offsets, logits = inputs(n, h, w, heads, channels, dtype, seed)
    kernel = InterpretedFunction(dcn_kernel.sampling)
    got = dcn_kernel.launch(kernel, value, offsets, logits, heads)
    assert got.dtype == dtype and got.shape == value.shape
    want = expected(value, offsets, logits, heads)
    assert float((got.double() - want).norm()) <= DTYPES[dtype][1] * max(float(want.norm()), 1.0)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        pytest.param(
            capability, dtype, marks=[] if (capability, name) in BY_DAY else [pytest.mark.nightly],
            id=f"{capability}-{name}",
        )
        for capability in (80, 89, 90, 120)
        for dtype, (name, _) in DTYPES.items()
    ],
)  # fmt: skip
def test_it_compiles_for_every_kind_of_gpu(capability: int, dtype: torch.dtype) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointer = f"*{DTYPES[dtype][0]}"
    signature = {
        **dict.fromkeys(("value", "offsets", "logits", "out"), pointer),
        **dict.fromkeys(("rows", "height", "width"), "i32"),
    }
    constants: dict[str, Any] = {"HEADS": 4, "CHANNELS": 16, "WIDE": 16, "BLOCK": 32}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(dcn_kernel.sampling_kernel, signature, constants)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert len(made.asm["cubin"]) > 1000
    assert f"sm_{capability}" in made.asm["ptx"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_operator_can_be_traced_and_exported(dtype: torch.dtype) -> None:
    value, offsets, logits = inputs(1, 4, 5, 2, 8, dtype, 0)
    # What compiles the kernel for the GPU at hand is checked there, in tests/gpu.
    torch.library.opcheck(
        dcn_kernel.dcn_sample,
        (value, offsets, logits, 2),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_a_backbone_samples_by_the_operator() -> None:
    """The same outputs, and the operator in the exported program."""
    model = create_backbone("dcn", "micro", image_size=64, num_classes=10)
    fill_synthetic(model, 0)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(x)
        assert dcn_kernel.fuse_sampling(model) == sum(model.config.depths)
        after = model(x)
    assert float((after - before).norm() / before.norm()) < 1e-6
    program = torch.export.export(model, (x,))
    assert "stmdeploy.dcn_sample" in str(program.graph)
