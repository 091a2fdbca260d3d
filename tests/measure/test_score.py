"""Scores of runners whose logits are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stmdeploy.backbones.images import LabelledBatch
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.measure.score import score, share95
from tests.fakes import FakeClock, FakeRunner


class Table(FakeRunner):
    """Gives the row of logits that the first pixel of an image names."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__(FakeClock(), [1.0])
        self.rows = np.array(rows, np.float32)

    def outputs(self) -> tuple[np.ndarray, ...]:
        assert self.prepared is not None
        self.batch = len(self.prepared)
        logits: np.ndarray = self.rows[self.prepared[:, 0, 0, 0].astype(int)]
        return (logits,)


def batches(*groups: list[tuple[int, int]]) -> Iterator[LabelledBatch]:
    """Batches of (row of logits, class)."""
    for group in groups:
        images = np.zeros((len(group), 3, 2, 2), np.float32)
        images[:, 0, 0, 0] = [row for row, _ in group]
        yield LabelledBatch(images, np.array([label for _, label in group]))


LOGITS: list[list[float]] = [
    [9, 8, 7, 6, 5, 4, 3],  # the best five are 0 to 4
    [0, 1, 2, 3, 4, 5, 6],  # 6 down to 2
    [1, 1, 1, 1, 1, 1, 1],  # of equal ones the first
]


def test_top1_top5_and_agreement() -> None:
    runner = Table(LOGITS)
    reference = Table([LOGITS[0], LOGITS[0], LOGITS[0]])
    told: list[int] = []
    groups = ([(0, 0), (0, 4), (0, 5)], [(1, 6), (2, 0)])
    found = score(runner, reference, batches(*groups), 3, lambda s: told.append(s.images))
    assert (found.images, found.top1, found.top5) == (5, 3, 4)
    assert (found.agreed, found.reference_top1) == (4, 2)
    assert told == [3, 5]
    assert runner.batch == 3  # the last batch was filled up


def test_without_a_reference_nothing_agrees() -> None:
    found = score(Table(LOGITS), None, batches([(0, 1)]), 1, lambda _: None)
    assert (found.agreed, found.reference_top1) == (None, None)


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(StmdeployError, match="not finite") as caught:
        score(Table([[float("nan"), 1.0]]), None, batches([(0, 0)]), 1, lambda _: None)
    assert caught.value.code is ExitCode.OUTPUTS_DIFFER


def test_the_interval_of_a_share() -> None:
    # Wilson's interval of 8 in 10, as tabulated: 49.0 .. 94.3 %.
    found = share95(8, 10)
    assert found.percent == 80
    assert found.low == pytest.approx(49.02, abs=0.01)
    assert found.high == pytest.approx(94.33, abs=0.01)
    assert share95(10, 10).high == pytest.approx(100)
