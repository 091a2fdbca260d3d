"""How photographs are prepared: what is understood, and what an option changes."""

from __future__ import annotations

import pytest

from stmdeploy import StmdeployError
from stmdeploy.spec.preparation import STANDARD, Preparation, Prepared, parse_channels


def test_the_size_that_is_cut_from() -> None:
    assert STANDARD.resized((224, 224)) == (256, 256)
    assert Preparation(crop=1.0).resized((64, 96)) == (64, 96)


def test_one_value_or_three() -> None:
    assert parse_channels("0.5", "--mean") == (0.5, 0.5, 0.5)
    assert parse_channels("0.1, 0.2,0.3", "--mean") == (0.1, 0.2, 0.3)
    for text in ("", "a", "1,2", "1,2,3,4"):
        with pytest.raises(StmdeployError, match="--std"):
            parse_channels(text, "--std")


def test_what_is_asked_replaces_what_the_model_says() -> None:
    model = Preparation((0.5, 0.5, 0.5), crop=0.9)
    assert Prepared().over(model) == model
    assert Prepared(crop=1.0).over(model) == Preparation((0.5, 0.5, 0.5), crop=1.0)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"mean": (float("nan"), 0.0, 0.0)}, "mean"),
        ({"std": (1.0, 0.0, 1.0)}, "deviation 1,0,1"),
        ({"crop": 0.0}, "crop 0"),
        ({"crop": 1.5}, "crop 1.5"),
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'"),
    ],
)
def test_what_is_not_understood(asked: dict[str, object], told: str) -> None:
    with pytest.raises(StmdeployError, match=told):
        Prepared(**asked)  # type: ignore[arg-type]
