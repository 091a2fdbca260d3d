"""Predictions of runners whose logits are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from stmdeploy.backbones.batches import Batch
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.measure.predictions import Predictions, Timing, merged, predict
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


def batches(*groups: list[tuple[int, int]], views: int = 1) -> Iterator[Batch]:
    """Batches of (row of logits, class), each in so many views: in view v the row is v further."""
    first = 0
    for group in groups:
        for view in range(views):
            images = np.zeros((len(group), 3, 2, 2), np.float32)
            images[:, 0, 0, 0] = [row + view for row, _ in group]
            labels = np.array([label for _, label in group])
            yield Batch(view, images, labels, np.arange(first, first + len(group)))
        first += len(group)


LOGITS: list[list[float]] = [
    [9, 8, 7, 6, 5, 4, 3],  # the best five are 0 to 4
    [0, 1, 2, 3, 4, 5, 6],  # 6 down to 2
    [1, 1, 1, 1, 1, 1, 1],  # of equal ones the first
]


def found(
    runner: Table, reference: Table | None, *groups: list[tuple[int, int]], views: int = 1
) -> Predictions:
    size = max(map(len, groups))
    parts = predict(runner, reference, batches(*groups, views=views), size, views, Timing())
    return merged(list(parts), views)


def test_top1_top5_and_the_reference() -> None:
    runner, reference = Table(LOGITS), Table([LOGITS[0], LOGITS[0], LOGITS[0]])
    seen = found(runner, reference, [(0, 0), (0, 4), (0, 5)], [(1, 6), (2, 0)])
    assert seen.places.tolist() == [0, 1, 2, 3, 4]
    assert seen.top1.tolist() == [[0, 0, 0, 6, 0]]
    assert seen.right.tolist() == [[True, False, False, True, True]]
    assert seen.in_top5.tolist() == [[True, True, False, True, True]]
    assert seen.reference_top1.tolist() == [0, 0, 0, 0, 0]
    assert runner.batch == 3  # the last batch was filled up


def test_views_are_compared_with_the_standard_one() -> None:
    seen = found(Table(LOGITS), None, [(0, 0), (1, 6)], views=2)
    assert seen.top1.tolist() == [[0, 6], [6, 0]]
    assert seen.consistent.tolist() == [[True, True], [False, False]]
    assert len(seen.reference_top1) == 0
    # Against itself it is the entropy; equal logits say log 7 of anything.
    softmax = np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum()
    assert seen.cross_entropy[0, 0] == pytest.approx(-(softmax * np.log(softmax)).sum(), rel=1e-5)
    assert seen.cross_entropy[1, 1] == pytest.approx(np.log(7), rel=1e-5)


def test_how_long_the_runtime_waits() -> None:
    timing, told = Timing(), list[int]()
    parts = predict(
        Table(LOGITS), None, batches([(0, 0)], [(1, 1)]), 1, 1, timing, lambda: told.append(1)
    )
    assert len(list(parts)) == 2 and told == [1, 1]
    assert 0 < timing.waited_s < timing.total_s


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(StmdeployError, match="not finite") as caught:
        found(Table([[float("nan"), 1.0]]), None, [(0, 0)])
    assert caught.value.code is ExitCode.OUTPUTS_DIFFER


def test_they_are_kept_as_data_alone() -> None:
    seen = found(Table(LOGITS), Table(LOGITS), [(0, 0), (1, 6)], views=2)
    seen = replace(seen, skipped=np.array([7]))
    back = Predictions.from_bytes(seen.to_bytes(), 2)
    for name, value in vars(seen).items():
        assert np.array_equal(getattr(back, name), value), name
    for content, views in ((seen.to_bytes(), 1), (seen.to_bytes()[:-40], 2), (b"", 2)):
        with pytest.raises(ValueError, match=r"."):
            Predictions.from_bytes(content, views)
    pickled = np.array([object()])
    import io

    file = io.BytesIO()
    np.savez(file, **{**vars(seen), "labels": pickled})
    with pytest.raises(ValueError, match="allow_pickle"):
        Predictions.from_bytes(file.getvalue(), 2)


def test_every_image_counts_once() -> None:
    seen = found(Table(LOGITS), None, [(0, 0)], [(1, 6)])
    first, second = (seen.of(np.array([place])) for place in (0, 1))
    whole = merged([replace(second, skipped=np.array([5])), first], 1)
    assert whole.places.tolist() == [0, 1] and whole.skipped.tolist() == [5]
    assert whole.top1.tolist() == [[0, 6]]
    with pytest.raises(ValueError, match="twice"):
        merged([first, seen], 1)
    with pytest.raises(ValueError, match="twice"):
        merged([first, replace(second, skipped=np.array([0]))], 1)
    assert len(merged([], 3)) == 0
