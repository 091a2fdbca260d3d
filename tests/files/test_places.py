"""Folders of a user whose home nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.files.places import cache_folder, config_folder


def _raises(_: str) -> Path:
    raise RuntimeError("could not determine the home directory")


@pytest.mark.parametrize("find", [lambda name: Path("~/.cache", name), _raises])
def test_a_user_without_a_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, find: object
) -> None:
    """Older versions of platformdirs give a relative folder, newer ones raise."""
    monkeypatch.setattr("platformdirs.user_cache_path", find)
    monkeypatch.setattr("platformdirs.user_config_path", find)
    with pytest.raises(StmdeployError, match="neither XDG_CACHE_HOME nor HOME"):
        cache_folder()
    with pytest.raises(StmdeployError, match=r"set XDG_CONFIG_HOME"):
        config_folder()
