"""Profiles against the datasheets, and profiles of a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.hardware.profiles import FOLDERS_VARIABLE, find_profiles, profiles

#: As the datasheets have them: memory GB, GB/s, W, fp32 TFLOPS, fp16 and int8 tensor, dense.
DATASHEETS = {
    "a10": (24, 600, 150, 31.2, 125, 250),
    "a100-40gb": (40, 1555, 400, 19.5, 312, 624),
    "a100-80gb": (80, 2039, 400, 19.5, 312, 624),
    "b200": (180, 8000, 1000, 75, 2250, 4500),
    "h100": (80, 3350, 700, 67, 989.5, 1979),
    "h200": (141, 4800, 700, 67, 989.5, 1979),
    "jetson-orin": (64, 204.8, 60, 5.3, 42.5, 85),
    "l4": (24, 300, 72, 30.3, 121, 242.5),
    "l40s": (48, 864, 350, 91.6, 362.05, 733),
    "rtx-3090": (24, 936, 350, 35.6, 71, 284),
    "rtx-4090": (24, 1008, 450, 82.6, 165.2, 660.6),
    "rtx-5090": (32, 1792, 575, 104.8, 209.5, 838),
    "t4": (16, 320, 70, 8.1, 65, 130),
    "v100": (32, 900, 300, 15.7, 125, None),
}
OWN = """
title = "My card"
names = ["My card 1"]
compute_capability = "9.9"
memory_gb = 8
bandwidth_gb_s = 100
l2_mb = 1
tdp_w = 10
batches = [1]
precisions = ["fp32"]
source = "mine"
[peak_tflops]
fp32 = 1
"""


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    profiles.cache_clear()
    yield
    profiles.cache_clear()


def test_every_figure_is_the_datasheets() -> None:
    assert profiles().keys() == DATASHEETS.keys()
    for name, (memory, bandwidth, watts, fp32, fp16, int8) in DATASHEETS.items():
        profile = profiles()[name]
        tensor = profile.tensor_tflops or {}
        assert (profile.memory_gb, profile.bandwidth_gb_s, profile.tdp_w) == (
            memory, bandwidth, watts,
        ), name  # fmt: skip
        assert (profile.peak_tflops["fp32"], tensor["fp16"], tensor.get("int8")) == (
            fp32, fp16, int8,
        ), name  # fmt: skip
        assert profile.source


def test_no_two_profiles_have_a_name_in_common() -> None:
    names = [name.lower() for profile in profiles().values() for name in profile.names]
    assert len(set(names)) == len(names)


def test_names_are_the_same_with_and_without_dashes() -> None:
    for name in ("rtx-4090", "RTX 4090", "rtx4090"):
        assert [profile.name for profile in find_profiles(name)] == ["rtx-4090"]
    assert [profile.name for profile in find_profiles("a100")] == ["a100-40gb", "a100-80gb"]


def test_profiles_of_a_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mycard.toml").write_text(OWN)
    (folder / "notes.txt").write_text("x")
    monkeypatch.setenv(FOLDERS_VARIABLE, str(folder))
    assert find_profiles("mycard")[0].title == "My card"
    monkeypatch.delenv(FOLDERS_VARIABLE)
    profiles.cache_clear()
    place = tmp_path / "config" / "stmdeploy" / "profiles"
    place.mkdir(parents=True)
    (place / "l4.toml").write_text(OWN)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert find_profiles("l4")[0].title == "My card", "it takes the place of ours"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "is not TOML"),
        ("title = 'x'", "names: field required"),
        (OWN + "fp16 = 'fast'", "peak_tflops.fp16: input should be a valid number"),
        ("speed = 3\n" + OWN, "speed: unexpected"),
    ],
)
def test_a_profile_that_is_wrong_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    with pytest.raises(StmdeployError) as told:
        profiles()
    assert message in str(told.value)
    assert "bad.toml" in str(told.value)
