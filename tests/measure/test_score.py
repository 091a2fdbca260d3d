"""Scores of predictions that are known, and how often their intervals hold."""

from __future__ import annotations

import numpy as np
import pytest

from stmdeploy.measure.predictions import Predictions
from stmdeploy.measure.score import Resampled, Scores, area_weights, share95
from stmdeploy.spec.views import TRANSFORMS, ViewSpec


def test_the_interval_of_a_share() -> None:
    # Wilson's interval of 8 in 10, as tabulated: 49.0 .. 94.3 %.
    found = share95(8, 10)
    assert found.percent == 80
    assert found.low == pytest.approx(49.02, abs=0.01)
    assert found.high == pytest.approx(94.33, abs=0.01)
    assert share95(10, 10).high == pytest.approx(100)


def test_the_area_under_a_curve() -> None:
    assert area_weights([0, 10, 20]).tolist() == [0.25, 0.5, 0.25]
    assert area_weights([0, 1, 4]).tolist() == pytest.approx([0.125, 0.5, 0.375])
    assert area_weights(TRANSFORMS["scale"]).sum() == pytest.approx(1)


def test_the_bootstrap_holds() -> None:
    """Of means of 60 skewed values, 95 % of the intervals, within what chance allows."""
    dice = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        found = Resampled(dice.exponential(size=(1, 60))).line(0)
        covered += found.low <= 1.0 <= found.high
    assert covered / 300 > 0.95 - 3 * (0.05 * 0.95 / 300) ** 0.5 - 0.02  # small and skewed


def test_a_share_that_all_images_agree_on() -> None:
    found = Resampled(np.array([[1.0] * 20, [0.0] * 20])).share(0)
    assert (found.value, found.high) == (100, 100)
    assert found.low == pytest.approx(share95(20, 20).low) and found.low < 90


def known(views: ViewSpec, lost: int = 0) -> Predictions:
    """Forty images of class 0 in ten of which the answer changes half way, and at more levels of
    `lost` more; the other ten are never right."""
    count = 40
    top1 = np.zeros((len(views.views), count), np.int64)
    top1[:, 30:] = 1
    for name in views.transforms:
        first, levels = views.of(name)
        half = first + len(levels) // 2 + 1
        top1[half : first + len(levels), : 10 + lost] = 2
    return Predictions(
        places=np.arange(count),
        labels=np.zeros(count, np.int64),
        top1=top1,
        in_top5=np.ones(top1.shape, bool),
        cross_entropy=np.full(top1.shape, 0.5, np.float32),
        reference_top1=np.zeros(0, np.int64),
        skipped=np.zeros(0, np.int64),
    )


def test_curves() -> None:
    views = ViewSpec(("translation", "scale"))
    scores = Scores(known(views), views, None)
    translation, scale = scores.curves
    assert [one.level for one in translation.levels] == list(TRANSFORMS["translation"])
    consistency = [one.consistency.value for one in translation.levels]
    assert consistency == [100.0] * 9 + [75.0] * 8
    assert translation.levels[0].top1 is not None and translation.levels[-1].top1 is not None
    assert translation.levels[0].top1.value == 75 and translation.levels[-1].top1.value == 50
    assert translation.levels[0].top5 is not None and translation.levels[0].top5.value == 100
    assert translation.levels[3].cross_entropy.value == pytest.approx(0.5)
    # 16 steps: half a one at 87.5, 8 below it at 100, 7 and a half at 75.
    assert translation.area.value == pytest.approx((8 * 100 + 87.5 + 7 * 75) / 16)
    assert translation.area.low < translation.area.value < translation.area.high
    assert translation.area_more_than_fp32 is None
    whole = scores.area("consistency", "translation", "scale")
    assert whole is not None
    assert whole.value == pytest.approx((translation.area.value + scale.area.value) / 2)
    assert scores.area("more", "scale") is None


def test_what_a_precision_costs_is_told_image_by_image() -> None:
    """Two images in forty more: surer than the difference of the two intervals."""
    views = ViewSpec(("rotation",))
    (curve,) = Scores(known(views, 2), views, known(views)).curves
    more = curve.area_more_than_fp32
    assert more is not None
    assert more.value == pytest.approx(-2 / 40 * 100 * 8.5 / 18)
    assert more.high <= 0 and more.high - more.low < curve.area.high - curve.area.low


def test_where_no_image_differs_another_might() -> None:
    views = ViewSpec(("rotation",))
    (curve,) = Scores(known(views), views, known(views)).curves
    more = curve.area_more_than_fp32
    assert more is not None and more.value == 0
    assert more.high == -more.low == pytest.approx(share95(0, 40).high)


def test_without_labels_there_is_no_accuracy() -> None:
    views, seen = ViewSpec(("scale",)), known(ViewSpec(("scale",)))
    seen.labels[3] = -1
    (curve,) = Scores(seen, views, None).curves
    assert {one.top1 for one in curve.levels} == {one.top5 for one in curve.levels} == {None}
