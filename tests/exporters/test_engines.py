"""What TensorRT-RTX's builder makes of the form for GPUs, held against the reference form."""

from __future__ import annotations

import pytest

from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.model import ModelSpec

pytest.importorskip("tensorrt_rtx")
#: Of every mixer at micro: the share of the reference form's layers that are gone at batch 1, and
#: of its kernels, less a few for other versions of the builder; and its attentions.
LEAST = {"halo": (40, 20, 15), "swin": (28, 28, 15), "pvt": (25, 20, 9), "dcn_v3": (30, 25, 0),
         "convnext": (2, 2, 0)}  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("stm", LEAST)
def test_fewer_layers_than_the_reference(stm: str, batch: int) -> None:
    from benchmarks.engines import engine_of
    from stmdeploy.backbones.source import build_model
    from stmdeploy.plugins.progress import Silent

    spec = ModelSpec(f"unified_{stm}_micro")
    model = build_model(spec, Silent())
    engine = EngineSpec((batch,) * 3, compute_capabilities=("8.9",))
    reference, ours = (
        engine_of(model, spec, form, "fp16", engine) for form in ("reference", "gpu")
    )
    layers, kernels, attentions = LEAST[stm]
    assert ours.attentions == attentions, "every attention is one kernel"
    assert len(ours.layers) < len(reference.layers)
    assert ours.kernels <= (1 - kernels / 100) * reference.kernels
    if batch == 1:
        assert len(ours.layers) <= (1 - layers / 100) * len(reference.layers)
    assert ours.activation_mib <= 1.15 * reference.activation_mib
    assert ours.known_percent >= 95
