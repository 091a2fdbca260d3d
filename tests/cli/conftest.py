"""What several tests of the command line share: a folder of their own, and a trained backbone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.digits import train, write_digits
from tests.sharing import SharedArtifacts

#: Side of the pictures that it has learned, in pixels.
SIDE = 32
#: Options that name the backbone.
LEARNER = ["--stm", "convnext", "--scale", "nano", "--image-size", str(SIDE), "--num-classes", "10"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def digits(artifacts: SharedArtifacts) -> Path:
    """Digits in folders train and test, and digits.pth, of a backbone that saw the first.

    It is everybody's: read it, or copy it.
    """

    def make(root: Path) -> None:
        write_digits(root / "train", slice(0, 1200))
        write_digits(root / "test", slice(1200, None))
        train(root / "train", root / "digits.pth", "convnext", "nano", SIDE)

    return artifacts.made("convnext nano that has learned digits", make)
