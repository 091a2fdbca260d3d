"""Receptive fields: of convolutions by hand, and of every mixer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stmdeploy import create_backbone
from stmdeploy.backbones.synthetic import fill_synthetic
from stmdeploy.cli.main import main
from stmdeploy.evaluate.receptive_field import contributions, side_px
from stmdeploy.results.store import Store
from tests.digits import write_digits


def ones(stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(3 if stride < 0 else 1, 1, 3, stride=abs(stride), padding=1, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def test_three_convolutions_by_hand() -> None:
    """Of ones: the outer product of 1 3 6 7 6 3 1, whose squares hold 49, 361 and 625 of 729."""
    stack = nn.Sequential(ones(), ones(), ones())
    images = np.random.default_rng(0).standard_normal((2, 1, 15, 15), dtype=np.float32)
    (found,) = contributions(lambda x: [stack(x)], images, squared=False)
    row = np.array([1.0, 3, 6, 7, 6, 3, 1])
    expected = np.zeros((15, 15))
    expected[4:11, 4:11] = np.outer(row, row)
    assert np.abs(found - expected).max() < 1e-6
    centre = (7.5, 7.5)
    for percent, side in ((5, 1), (49 / 7.29, 1), (20, 3), (49, 3), (50, 5), (86, 7), (100, 7)):
        assert side_px(found, centre, percent) == side, percent
    (squared,) = contributions(lambda x: [stack(x)], images, squared=True)
    assert np.abs(squared - expected**2).max() < 1e-6


def test_a_stride_moves_the_centre() -> None:
    """A map of stride 4: its position h // 2 covers four pixels right of the image's middle."""
    layer = nn.Conv2d(3, 2, 4, stride=4, bias=False)
    nn.init.constant_(layer.weight, -0.5)
    (found,) = contributions(
        lambda x: [layer(x)], np.zeros((1, 3, 32, 16), np.float32), squared=False
    )
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 19, 8, 11)
    assert found[16, 8] == pytest.approx(3.0)  # two channels of three colours, 0.5 each
    assert side_px(found, (18.0, 10.0), 99) == 4
    assert side_px(found, (18.0, 10.0), 20) == 2


@pytest.mark.slow
@pytest.mark.parametrize("stm", ["halo", "pvt", "swin", "convnext", "dcn"])
def test_every_mixer_sees_more_at_every_stage(stm: str) -> None:
    model = create_backbone(stm, "nano").requires_grad_(False)
    fill_synthetic(model, 0)  # of a norm whose weights are all one, the channels' sum is constant
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    maps = contributions(model.forward_features, images, squared=False)
    assert len(maps) == 4
    # What does not contribute has no influence: an image with other pixels there gives the same.
    first = maps[0]
    other = images.copy()
    other[:, :, first == 0] = 9.0
    with torch.inference_mode():
        one, two = (model.forward_features(torch.from_numpy(x))[0] for x in (images, other))
    assert torch.allclose(one[..., 28, 28], two[..., 28, 28], atol=1e-5)
    reached = [int((one > 0).sum()) for one in maps]
    assert reached == sorted(reached)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_digits(here / "digits", slice(0, 20))
    words = ["receptive-field", "--stm", "convnext,dcn", "--scale", "nano", "--image-size", "64"]
    assert main([*words, "--data", str(data), "--images", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert [one["stm"] for one in document["receptive_fields"]] == ["convnext", "dcn"]
    for one in document["receptive_fields"]:
        assert (one["images"], one["data"], len(one["stages"])) == (2, "digits", 4)
        for stage in one["stages"]:
            sides = list(stage["sides_px"].values())
            assert sides == sorted(sides)
    arrays = [Path(name) for name in document["files"] if name.endswith(".npz")]
    assert np.load(arrays[0])["stage4"].shape == (64, 64)
    assert Image.open(arrays[0].with_suffix(".png")).size == (4 * 64 + 3 * 4, 64)
    assert "noise" not in err and "synthetic weights" in err
    assert main([*words, "--images", "1"]) == 0
    out, err = capsys.readouterr()
    assert "over noise" in err and "stride px" in out
    assert len(Store(here / "stmdeploy-results").receptive_fields()) == 2


def test_bad_input_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["receptive-field", "--stm", "convnext", "--scale", "nano"]
    for more, told in (
        (["--images", "0"], "number of images"),
        (["--contribution", "cubed"], "unknown contribution 'cubed'"),
        (["--data", "nowhere"], "is not a folder"),
        (["--interpolation", "best"], "unknown interpolation"),
    ):
        assert main([*words, *more]) == 2
        assert told in capsys.readouterr().err.splitlines()[-1]
    assert main(["receptive-field", "--model", "torch.nn:Identity"]) == 2
    assert list(here.iterdir()) == []
