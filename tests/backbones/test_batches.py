"""Batches of images in their views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stmdeploy.backbones import images, views
from stmdeploy.backbones.batches import Batch, LabelledFile, Reading
from stmdeploy.backbones.images import image_folder, load_image
from stmdeploy.spec.views import ViewSpec
from tests.backbones.test_images import class_folders, save


def files_of(folder: Path) -> list[LabelledFile]:
    found = image_folder(folder, 2).files
    return [LabelledFile(path, label, place) for place, (path, label) in enumerate(found)]


def read(reading: Reading, files: list[LabelledFile]) -> tuple[list[Batch], list[str]]:
    skipped: list[str] = []
    return list(reading.batches(files, lambda file, _: skipped.append(file.path.name))), skipped


def test_unreadable_images_are_named_and_left_out(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "d", a=3, b=2)
    (folder / "a" / "1.png").write_bytes(b"no picture")
    (folder / "b" / "0.png").write_bytes((folder / "b" / "1.png").read_bytes()[:40])
    found, skipped = read(Reading(2, (32, 32), 2), files_of(folder))
    assert [list(batch.labels) for batch in found] == [[0], [0], [1]]
    assert [list(batch.places) for batch in found] == [[0], [2], [4]]
    assert all(batch.images.shape[1:] == (3, 32, 32) for batch in found)
    assert skipped == ["1.png", "0.png"]


@pytest.mark.parametrize("threads", [1, 3])
def test_every_view_of_the_same_images_in_turn(tmp_path: Path, threads: int) -> None:
    folder = class_folders(tmp_path / "d", a=3, b=2)
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        save(path, 16, 16, (40 * i, 0, 0))
    spec = ViewSpec(("scale",))
    found, _ = read(Reading(2, (16, 16), threads, spec=spec), files_of(folder))
    assert [batch.view for batch in found] == [*range(16)] * 3
    assert [list(batch.places) for batch in found[::16]] == [[0, 1], [2, 3], [4]]
    standard = load_image(sorted(folder.rglob("*.png"))[4], (16, 16))
    assert np.array_equal(found[32].images[0], standard)


def test_a_folder_in_which_nothing_can_be_read(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "d", a=1, b=1)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    assert read(Reading(1, (8, 8), 2), files_of(folder)) == ([], ["0.png", "0.png"])


def test_only_a_few_batches_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def open_image(path: Path) -> object:
        opened.append(path)
        return plain(path)

    plain = images.open_image
    monkeypatch.setattr(views, "open_image", open_image)
    reading = Reading(1, (8, 8), 1).batches(
        files_of(class_folders(tmp_path / "d", a=20, b=20)), lambda *_: None
    )
    next(reading)
    reading.close()
    assert 1 <= len(opened) <= 6
