"""The backbones against the official implementation: keys, shapes, logits, stage maps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stmdeploy import create_backbone
from stmdeploy.backbones.synthetic import fill_synthetic
from tests.conftest import DATA, at_night, reference_image, relative_l2

STATE_DICTS = json.loads((DATA / "state_dicts.json").read_text())
OUTPUTS = np.load(DATA / "outputs.npz")
NAMES = list(STATE_DICTS)
#: Channels and steps of the stage maps that `outputs.npz` keeps.
CHANNELS, STEPS = 4, (4, 4, 1, 1)
#: The stored stage maps are a float32 run. In float64 ours differ from them by its error alone;
#: in float32 by both errors, ours being larger where oneDNN computes the convolutions.
STAGE_TOLERANCE_64, STAGE_TOLERANCE_32 = 1.2e-6, 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_is_the_official_one(name: str) -> None:
    with torch.device("meta"):  # names and shapes alone
        model = create_backbone(name)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == STATE_DICTS[name]["keys"]
    assert sum(p.numel() for p in model.parameters()) == STATE_DICTS[name]["params"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=at_night(name)) for name in NAMES])
def test_outputs_are_the_official_ones(name: str) -> None:
    model = create_backbone(name)
    fill_synthetic(model)
    x = reference_image()
    with torch.inference_mode():
        logits = model(x)
        maps = model.forward_features(x)
        logits64 = model.double()(x.double())
        maps64 = model.forward_features(x.double())
    expected = OUTPUTS[f"{name}/logits64"]
    assert relative_l2(logits, expected) <= 1e-6
    # The official dcn computes its reference points in float32, even in float64.
    assert relative_l2(logits64, expected) <= (1e-6 if "dcn" in name else 1e-12)
    for stage, step in enumerate(STEPS):
        stored = OUTPUTS[f"{name}/stage{stage + 1}"]
        assert list(maps[stage].shape) == OUTPUTS[f"{name}/stage{stage + 1}_shape"].tolist()
        for got, bound in ((maps64, STAGE_TOLERANCE_64), (maps, STAGE_TOLERANCE_32)):
            assert relative_l2(got[stage][:, :CHANNELS, ::step, ::step], stored) <= bound


def test_every_reference_model_is_covered() -> None:
    assert {key.split("/")[0] for key in OUTPUTS} == set(NAMES)
    assert len(NAMES) == 20
