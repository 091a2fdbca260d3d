"""Views of photographs: where their content goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stmdeploy import StmdeployError
from stmdeploy.backbones.images import load_image
from stmdeploy.backbones.views import DIRECTIONS, Photograph, look, seen
from stmdeploy.spec.preparation import STANDARD
from stmdeploy.spec.views import AUTHORS, CLEAN, TRANSFORMS, View, ViewSpec

SIZE = (224, 224)


def photograph(folder: Path, place: int, spec: ViewSpec, width: int = 256) -> Photograph:
    """One in which every pixel of the standard image has its own colour: its row and column."""
    pixels = np.zeros((256, width, 3), np.uint8)
    pixels[..., 0] = np.arange(256)[:, None]
    pixels[..., 1] = np.arange(width) % 256
    pixels[..., 2] = 255
    path = folder / f"{width}.png"
    Image.fromarray(pixels).save(path)
    return Photograph.read(path, place, SIZE, STANDARD, spec)


def pixels(one: Photograph, view: View, spec: ViewSpec) -> np.ndarray:
    return np.asarray(seen(one, view, SIZE, STANDARD, spec)).astype(int)


def test_level_0_is_the_standard_view(tmp_path: Path) -> None:
    spec = ViewSpec(("translation", "rotation", "rotation-after"))
    one = photograph(tmp_path, 3, spec, 301)
    standard = load_image(one.path, SIZE)
    for view in (View(), *(View(name, 0.0) for name in spec.transforms)):
        assert np.array_equal(look(one, view, SIZE, STANDARD, spec), standard)


def test_the_seventy_levels() -> None:
    assert sum(map(len, TRANSFORMS.values())) == 70
    assert TRANSFORMS["translation"][-1] == 64 and TRANSFORMS["rotation"][-1] == 90
    assert TRANSFORMS["scale"][0] == 0.2 and TRANSFORMS["scale"][-1] == 1.95
    spec = ViewSpec(("scale", "rotation"))
    assert len(spec.views) == 1 + 15 + 19
    assert spec.of("rotation")[0] == 16 and spec.views[16] == View("rotation", 0.0)


def test_content_moves_in_all_directions_and_leaves_black(tmp_path: Path) -> None:
    """Row and column of the pixel that is now in the first corner, or black."""
    spec, seen_directions = ViewSpec(("translation",)), set()
    for place in range(60):
        one = photograph(tmp_path, place, spec)
        near, far = (pixels(one, View("translation", x), spec) for x in (8.0, 64.0))
        down, right = (near[100, 100, :2] - (116, 116)) // 8
        seen_directions.add((int(down), int(right)))
        # 64 px moves on in the same direction: 48 beyond the margin of 16 are black.
        assert tuple(far[100, 100, :2]) == (116 + 64 * down, 116 + 64 * right)
        black = (far[..., 2] == 0).sum()
        assert black == 224 * 224 - (224 - 48 * abs(down)) * (224 - 48 * abs(right))
    assert seen_directions == set(DIRECTIONS)


def by_the_authors(image: np.ndarray, mode: int, jitter: int) -> np.ndarray:
    """`PositionJitterTransform` of STM-Evaluation, told again for an array H W 3."""
    y, x = image.shape[0] // 2, image.shape[1] // 2
    y += {0: jitter, 2: -jitter, 4: jitter, 5: -jitter, 6: -jitter}.get(mode, 0)
    x += {1: jitter, 3: -jitter, 4: jitter, 5: jitter, 6: -jitter}.get(mode, 0)
    cut = image[max(y - 112, 0) : min(y + 112, image.shape[0]),
                max(x - 112, 0) : min(x + 112, image.shape[1])]  # fmt: skip
    missing = [224 - side for side in cut.shape[:2]]
    return np.pad(cut, [*((n // 2, (n + 1) // 2) for n in missing), (0, 0)])


@pytest.mark.parametrize("width", [256, 301])
def test_the_authors_draw_seven_directions_and_centre_again(width: int, tmp_path: Path) -> None:
    spec, modes = ViewSpec(("translation",), AUTHORS), set()
    for place in range(60):
        one = photograph(tmp_path, place, spec, width)
        whole = np.asarray(one.standard).astype(int)
        for level in (8, 64):
            mine = pixels(one, View("translation", float(level)), spec)
            fits = [m for m in range(8) if np.array_equal(mine, by_the_authors(whole, m, level))]
            assert len(fits) == 1
            modes.update(fits)
    assert modes == set(range(7))


def test_a_quarter_turn(tmp_path: Path) -> None:
    spec = ViewSpec(("rotation", "rotation-after"))
    one = photograph(tmp_path, 0, spec)
    standard = pixels(one, View(), spec)
    turned = np.rot90(standard)
    assert np.abs(pixels(one, View("rotation-after", 90.0), spec) - turned).max() <= 1
    assert np.abs(pixels(one, View("rotation", 90.0), spec) - turned).max() <= 1
    after = pixels(one, View("rotation-after", 45.0), spec)
    before = pixels(one, View("rotation", 45.0), spec)
    assert (after[0, 0, 2], before[0, 0, 2]) == (0, 0)
    assert (after[..., 2] == 0).sum() > (before[..., 2] == 0).sum(), "the margin came into sight"


def test_nearer_and_farther(tmp_path: Path) -> None:
    spec = ViewSpec(("scale",))
    one = photograph(tmp_path, 0, spec)
    far = pixels(one, View("scale", 1.95), spec)
    # int(224 / 1.95) = 114 px in the middle of black.
    assert (far[..., 2] > 0).sum() == 114 * 114
    near = pixels(one, View("scale", 0.2), spec)
    # 224 of 1120 px: a fifth of 256 rows.
    assert near[-1, 0, 0] - near[0, 0, 0] == pytest.approx(51, abs=2)


def test_another_seed_draws_others(tmp_path: Path) -> None:
    specs = [ViewSpec(("translation",), CLEAN, seed) for seed in (0, 0, 1)]
    found = [
        [pixels(photograph(tmp_path, place, spec), View("translation", 64.0), spec).sum()
         for place in range(12)]
        for spec in specs
    ]  # fmt: skip
    assert found[0] == found[1] != found[2]


def test_what_is_not_known() -> None:
    with pytest.raises(StmdeployError, match="did you mean 'rotation'"):
        ViewSpec(("rotatoin",))
    with pytest.raises(StmdeployError, match="unknown protocol 'mine'"):
        ViewSpec(("scale",), "mine")
