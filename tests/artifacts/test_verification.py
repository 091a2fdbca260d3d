"""Verification tells a right artifact from a wrong one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from stmdeploy import StmdeployError
from stmdeploy.artifacts.probe import Probe, known
from stmdeploy.artifacts.verification import Reference, verify
from stmdeploy.errors import ExitCode
from stmdeploy.schema.manifest import Verification

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

    def prepare(self, *inputs: Array) -> None:
        self.images = torch.from_numpy(inputs[0])

    def run(self) -> None:
        return

    def feed(self, *inputs: Array) -> None:
        self.images = torch.from_numpy(inputs[0])

    def on_stream(self) -> None:
        return None

    def another(self) -> Spoilt:
        return self

    def outputs(self) -> tuple[Array, ...]:
        with torch.no_grad():
            y: Array = self.module(self.images).numpy()
        if self.spoil == "last image" and len(y) > 1:
            y[-1] *= 1.001
        elif self.spoil == "nan":
            y[-1, 0] = np.nan
        elif self.spoil == "frozen":
            y = y[:1]
        elif self.spoil == "wrong order":
            y = y[::-1].copy()
        elif self.spoil == "leak":
            y += np.roll(y, 1, axis=0) * (len(y) > 1)
        elif self.spoil == "by place" and len(y) > 3:
            y[3] += 0.1
        return (y,)

    def facts(self) -> dict[str, str]:
        return {"runtime": "fake", "version": "1", "provider": "test"}


def explain(_: Array) -> str:
    return "the first is Div node_div of stage 2 mixer"


def run(
    spoil: str,
    batches: tuple[int, ...] = (1, 3),
    precision: str = "fp32",
    tolerance: float | None = 1e-5,
) -> Verification:
    module = Linear()
    known = Reference(module, ["logits"], (2, 2)).known
    assert next(module.parameters()).dtype == torch.float32
    return verify(
        lambda _: Spoilt(module, spoil), known, (2, 2), precision, tolerance, explain, batches
    )


def test_a_right_artifact() -> None:
    report = run("nothing", (1, 2, 3, 8, 32))
    assert 0 < report.relative_l2_error < 1e-6
    assert report.worst_difference < 1e-5
    assert report.row_dependence < 1e-6
    assert report.batches == (1, 2, 3, 8, 32)
    assert report.runtime == "fake 1 (test)"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            "last image",
            r"differ from PyTorch float64 by .* in row 2 of a batch of 3, allowed \de-05 "
            r"\(input seed \d+\)",
        ),
        ("wrong order", r"in row [02] of a batch of 3"),
        ("leak", r"in row \d of a batch of 3"),
        ("nan", "not finite at batch 1: the first is Div node_div of stage 2 mixer"),
        ("frozen", r"shape \(1, 4\) at batch 3, not 3 rows of 4"),
    ],
)
def test_a_wrong_artifact(spoil: str, says: str) -> None:
    with pytest.raises(StmdeployError, match=says) as error:
        run(spoil)
    assert error.value.code == ExitCode.OUTPUTS_DIFFER
    assert error.value.hint == "no artifact was written"


def test_a_row_that_is_not_finite_is_named() -> None:
    with pytest.raises(StmdeployError, match="not finite at batch 3, the first is row 2"):
        run("nan", (3,))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("leak", r"row \d of a batch of 2 moved as the image of row 1 changed: outputs differ by"),
        ("by place", r"rows 0 and 3 of a batch of 4 hold the same image: outputs differ by"),
    ],
)
def test_rows_must_not_depend_on_each_other_even_where_errors_are_not_judged(
    spoil: str, says: str
) -> None:
    batches = (2,) if spoil == "leak" else (4,)
    with pytest.raises(StmdeployError, match=says) as error:
        run(spoil, batches, "int8", None)
    assert error.value.code == ExitCode.OUTPUTS_DIFFER


def test_scales_of_a_whole_batch_are_reported() -> None:
    """int8-dynamic: activations of all images share a scale."""
    assert run("leak", (1, 3), "int8-dynamic", None).row_dependence > 1e-4


def test_large_outputs_are_kept_in_part() -> None:
    outputs = np.arange(3 * 10_000, dtype=np.float64).reshape(3, 10_000)
    kept = known(7, {"map": outputs})
    (one,) = kept.outputs
    assert (one.name, one.size, one.step) == ("map", 10_000, 3)
    assert len(one.values) < 3 * 4096 * 4 * 4 / 3 + 4
    probe = Probe(kept, (2, 2), "fp32", 1e-5)
    (taken,) = probe.taken((outputs.astype(np.float32),), 3)
    assert taken.shape == (3, 3334)
    with pytest.raises(StmdeployError, match="shape"):
        probe.taken((outputs[:2].astype(np.float32),), 3)
    with pytest.raises(StmdeployError, match="there are 2 outputs, not 1"):
        probe.taken((outputs.astype(np.float32),) * 2, 3)


class MixesItself(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y - y.mean(dim=0) / 2


def test_a_model_that_mixes_the_images_of_a_batch_is_refused() -> None:
    with pytest.raises(StmdeployError, match="the model itself mixes the images") as error:
        _ = Reference(MixesItself(), ["logits"], (2, 2)).known
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
    with pytest.raises(StmdeployError, match=says):
        _ = Reference(module, ["logits"], (2, 2)).known


def test_an_engine_that_fails() -> None:
    class EngineError(Exception):
        pass

    def load(_: int) -> Spoilt:
        raise EngineError("opset 99")

    with pytest.raises(StmdeployError, match="does not run at batch 1: opset 99") as error:
        verify(load, Reference(Linear(), ["logits"], (2, 2)).known, (2, 2), "fp32", 1e-5, explain)
    assert error.value.code == ExitCode.OUTPUTS_DIFFER
