"""Photographs in, normalised tensors out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stmdeploy import StmdeployError
from stmdeploy.images import MEAN, STD, load_image, load_images


def save(path: Path, width: int, height: int, colour: tuple[int, int, int] = (255, 0, 51)) -> Path:
    Image.new("RGB", (width, height), colour).save(path)
    return path


@pytest.mark.parametrize(("width", "height"), [(500, 300), (300, 500), (64, 64), (20, 10)])
def test_any_shape_becomes_the_size(width: int, height: int, tmp_path: Path) -> None:
    image = load_image(save(tmp_path / "a.png", width, height), (64, 96))
    assert image.shape == (3, 64, 96)
    assert image.dtype == np.float32
    expected = (np.array([1.0, 0.0, 0.2]) - MEAN) / STD
    assert np.allclose(image.mean(axis=(1, 2)), expected, atol=1e-5)


def test_the_centre_is_cut_out(tmp_path: Path) -> None:
    """A 256 x 512 image at 224: resized by one, columns 144 to 368 stay."""
    pixels = np.zeros((256, 512, 3), np.uint8)
    pixels[:, 144:368] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png", (224, 224))
    assert np.allclose(image, ((1 - np.array(MEAN)) / STD)[:, None, None], atol=1e-5)


def test_grey_and_transparent_images(tmp_path: Path) -> None:
    Image.new("L", (64, 64), 128).save(tmp_path / "grey.png")
    Image.new("RGBA", (64, 64), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    assert load_images(tmp_path, 9, (32, 32), print).shape == (2, 3, 32, 32)


def test_images_are_spread_over_the_folder(tmp_path: Path) -> None:
    for index in range(10):
        save(tmp_path / f"{index}.png", 8, 8, (index * 20, 0, 0))
    images = load_images(tmp_path, 5, (8, 8), print)
    reds = [round(float(image[0, 0, 0] * STD[0] + MEAN[0]) * 255) for image in images]
    assert reds == [0, 40, 80, 120, 160]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    save(tmp_path / "good.png", 8, 8)
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    (tmp_path / "notes.txt").write_text("no image at all")
    told: list[str] = []
    assert len(load_images(tmp_path, 9, (8, 8), told.append)) == 1
    (line,) = told
    assert line.startswith(f"skipped {tmp_path / 'cut.png'}")


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match="holds no image"):
        load_images(tmp_path, 1, (8, 8), print)
    with pytest.raises(StmdeployError, match="is not a folder"):
        load_images(tmp_path / "nosuch", 1, (8, 8), print)
