"""Verification tells a right artifact from a wrong one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from stmdeploy import StmdeployError
from stmdeploy.artifact import Verification
from stmdeploy.errors import ExitCode
from stmdeploy.verify import verify, verify_beside

Array = npt.NDArray[np.float32]


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(x.flatten(1))
        return y


class Spoilt:
    """Runs the module and then spoils what comes out."""

    def __init__(self, module: nn.Module, spoil: str) -> None:
        self.module, self.spoil = module, spoil
        self.images = torch.zeros(0)

    def prepare(self, images: Array) -> None:
        self.images = torch.from_numpy(images)

    def run(self) -> None:
        return

    def feed(self, images: Array) -> None:
        self.images = torch.from_numpy(images)

    def on_stream(self) -> None:
        return None

    def another(self) -> Spoilt:
        return self

    def output(self) -> Array:
        with torch.no_grad():
            y: Array = self.module(self.images).numpy()
        if self.spoil == "last image" and len(y) == 3:
            y[2] *= 1.001
        elif self.spoil == "nan":
            y[0, 0] = np.nan
        elif self.spoil == "frozen":
            y = y[:1]
        return y

    def facts(self) -> dict[str, str]:
        return {"runtime": "fake", "version": "1", "provider": "test"}


def explain(_: Array) -> str:
    return "the first is Div node_div of stage 2 mixer"


def run(spoil: str) -> float:
    module = Linear()
    report = verify(lambda _: Spoilt(module, spoil), module, (2, 2), 1e-5, explain)
    assert report.batches == (1, 3)
    assert report.worst_logit_difference < 1e-5
    assert next(module.parameters()).dtype == torch.float32
    return report.relative_l2_error


def test_a_right_artifact() -> None:
    assert 0 < run("nothing") < 1e-6


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("last image", r"differ from PyTorch float64 by .* allowed 1e-05 \(input seed \d+\)"),
        ("nan", "not finite at batch 1"),
        ("frozen", r"shape \(1, 4\), not \(3, 4\), at batch 3"),
    ],
)
def test_a_wrong_artifact(spoil: str, says: str) -> None:
    with pytest.raises(StmdeployError, match=says) as error:
        run(spoil)
    assert error.value.code == ExitCode.OUTPUTS_DIFFER


class Infinite(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 0.0


class Zero(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 0.0


class PlainTensor(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.randn(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) @ self.kept


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Infinite(), "own outputs in float64 are all zero or not finite"),
        (Zero(), "own outputs in float64 are all zero or not finite"),
        (PlainTensor(), "does not run in float64"),
    ],
)
def test_a_reference_that_cannot_judge(module: nn.Module, says: str) -> None:
    right = Linear()
    with pytest.raises(StmdeployError, match=says):
        verify(lambda _: Spoilt(right, "nothing"), module, (2, 2), 1e-5, explain)


def test_an_engine_that_fails() -> None:
    class EngineError(Exception):
        pass

    def load(_: int) -> Spoilt:
        raise EngineError("opset 99")

    with pytest.raises(StmdeployError, match="does not run at batch 1: opset 99") as error:
        verify(load, Linear(), (2, 2), 1e-5, explain)
    assert error.value.code == ExitCode.OUTPUTS_DIFFER


def test_one_runner_beside_another() -> None:
    """As an engine is compared with the graph it was built of."""
    module = Linear()

    def against(spoil: str) -> Verification:
        return verify_beside(
            lambda _: Spoilt(module, spoil), lambda _: Spoilt(module, ""), (2, 2), 1e-5, (1, 3)
        )

    same = against("nothing")
    assert same.relative_l2_error == 0.0 and same.batches == (1, 3)
    assert same.runtime.count(", against ") == 1
    with pytest.raises(StmdeployError, match=r"differ from those on .* allowed 1e-05") as error:
        against("last image")
    assert error.value.code == ExitCode.OUTPUTS_DIFFER
    with pytest.raises(StmdeployError, match="not finite"):
        against("nan")
