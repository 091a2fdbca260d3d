"""Photographs in, normalised tensors out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stmdeploy import StmdeployError
from stmdeploy.backbones.images import (
    NO_LABEL,
    image_folder,
    images_of,
    load_image,
    load_images,
    unlabelled_folder,
)
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.preparation import IMAGENET_MEAN as MEAN
from stmdeploy.spec.preparation import IMAGENET_STD as STD
from stmdeploy.spec.preparation import Preparation


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


def class_folders(root: Path, **images: int) -> Path:
    for name, count in images.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            save(root / name / f"{i}.png", 8, 8)
    return root


def test_classes_count_in_the_order_of_their_folders(tmp_path: Path) -> None:
    data = image_folder(class_folders(tmp_path / "d", zebra=1, ant=2), 2)
    assert [(path.parent.name, label) for path, label in data.files] == [
        ("ant", 0), ("ant", 0), ("zebra", 1),
    ]  # fmt: skip
    before = data.sha256
    assert before == image_folder(tmp_path / "d", 2).sha256
    assert [label for _, label in data.limited(2).files] == [0, 0]
    (tmp_path / "d" / "ant" / "1.png").unlink()
    assert before != image_folder(tmp_path / "d", 2).sha256


def test_a_class_map_names_the_classes(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "d", b=1, a=1)
    table = tmp_path / "map.json"
    table.write_text('{"a": 7, "b": 2, "unused": 1}')
    assert [label for _, label in image_folder(folder, 10, table).files] == [7, 2]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('{"a": 1}', "folder 'b' no class"),
        ('{"a": 1, "b": 10}', "folder 'b' no class from 0 to 9"),
        ('{"a": 1, "b": true}', "folder 'b' no class"),
        ("[1]", "folder 'a' no class"),
        ("{", "not JSON"),
    ],
)
def test_bad_class_maps(table: str, message: str, tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "d", a=1, b=1)
    (tmp_path / "map.json").write_text(table)
    with pytest.raises(StmdeployError, match=message):
        image_folder(folder, 10, tmp_path / "map.json")


def test_data_that_is_not_the_models(tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match="2 class folders, but the model 10 classes"):
        image_folder(class_folders(tmp_path / "d", a=1, b=1), 10)
    with pytest.raises(StmdeployError, match="is not a folder"):
        image_folder(tmp_path / "nowhere", 10)
    with pytest.raises(StmdeployError, match="holds no folders"):
        image_folder(tmp_path / "d" / "a", 10)
    with pytest.raises(StmdeployError, match="holds no images"):
        image_folder(class_folders(tmp_path / "e", a=0, b=0), 2)


def test_images_without_labels(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 8, 8)
    class_folders(tmp_path / "more", b=1)
    found = unlabelled_folder(tmp_path)
    assert [(path.name, label) for path, label in found.files] == [
        ("a.png", NO_LABEL), ("0.png", NO_LABEL),
    ]  # fmt: skip
    assert images_of(DataSpec(tmp_path, limit=1, labelled=False), 1000).files == found.files[:1]
    with pytest.raises(StmdeployError, match="holds no images"):
        unlabelled_folder(class_folders(tmp_path / "empty", a=0))
    with pytest.raises(StmdeployError, match="is not a folder"):
        unlabelled_folder(tmp_path / "nowhere")


def test_a_models_own_preparation(tmp_path: Path) -> None:
    """Half as large a crop shows half of the picture, in the network's own units."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 16:48] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    own = Preparation((0.5, 0.5, 0.5), (0.25, 0.5, 1.0), crop=0.5, interpolation="nearest")
    image = load_image(tmp_path / "a.png", (32, 32), own)
    assert np.allclose(image, np.array([2.0, 1.0, 0.5])[:, None, None])
    (whole,) = load_images(tmp_path, 1, (64, 64), print, Preparation(crop=1.0))
    assert np.allclose(whole[:, 0, 0], -np.array(MEAN) / STD, atol=1e-6)
