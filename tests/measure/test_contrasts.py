"""Ratios of rows that took turns, worked by hand; groups by letters."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stmdeploy.measure.contrasts import Contrast, contrasts, letters, wave_difference


def test_a_wave_is_the_median_over_its_cycles() -> None:
    """One cycle of three was disturbed, in the middle of one row's turn."""
    row, other = [[12.0, 12.0, 99.0], [12.0], [40.0, 41.0]], [[10.0], [10.0], [10.0, 11.0]]
    assert wave_difference(row, other) == pytest.approx(math.log(1.2))


def test_a_ratio_is_students() -> None:
    """Three waves of +10, +12 and +14 %, worked by hand."""
    logs = [math.log(x) for x in (1.10, 1.12, 1.14)]
    mean = sum(logs) / 3
    error = math.sqrt(sum((x - mean) ** 2 for x in logs) / 2 / 3)
    (found,) = contrasts([logs])
    ratio = found.ratio()
    assert ratio.ratio == pytest.approx(math.exp(mean))
    assert ratio.low == pytest.approx(math.exp(mean - 4.30265 * error))
    assert ratio.high == pytest.approx(math.exp(mean + 4.30265 * error))
    back = found.turned().ratio()
    assert (back.low, back.high) == pytest.approx((1 / ratio.high, 1 / ratio.low))


def test_a_ratio_that_tells_nothing_is_a_number() -> None:
    assert Contrast(0.1, 100.0, 1).ratio().high == pytest.approx(1e6 * math.exp(0.1))


def test_pairs_that_vary_alike_share_what_they_know() -> None:
    """Sixty pairs of six waves, all of a spread of 1: their errors come together, each worth more
    degrees of freedom."""
    random = np.random.default_rng(1)
    pairs = random.normal(0.0, 1.0, (60, 6)).tolist()
    alone = [contrasts([pair])[0] for pair in pairs]
    together = contrasts(pairs)
    assert {one.freedom for one in alone} == {5} and together[0].freedom > 5 + 10
    assert [one.difference for one in together] == [one.difference for one in alone]
    assert np.std([one.error for one in together]) < 0.5 * np.std([one.error for one in alone])
    assert np.mean([one.error for one in together]) == pytest.approx(6**-0.5, rel=0.2)


def test_pairs_that_vary_by_themselves_keep_their_own() -> None:
    """Half of them vary a hundred times as much as the others."""
    random = np.random.default_rng(1)
    spreads = np.where(np.arange(8) % 2, 100.0, 1.0)
    pairs = (spreads[:, None] * random.normal(0.0, 1.0, (8, 6))).tolist()
    for pair, together in zip(pairs, contrasts(pairs), strict=True):
        (alone,) = contrasts([pair])
        assert together.freedom < 6
        assert together.error == pytest.approx(alone.error, rel=0.3)


def test_pairs_without_any_spread_teach_nothing() -> None:
    assert [one.error for one in contrasts([[1.0] * 3] * 8)] == [0.0] * 8


def test_a_third_row_joins_two_that_took_no_turns_with_each_other() -> None:
    joined = Contrast(0.5, 0.03, 5) - Contrast(0.2, 0.04, 5)
    assert (joined.difference, joined.error) == pytest.approx((0.3, 0.05))
    assert 5 < joined.freedom < 10


def test_all_pairs_at_once_need_more_than_one_pair() -> None:
    """The studentized range's tables: q(0.95; 2, 5) = 3.64, q(0.95; 5, 5) = 5.67."""
    between = Contrast(3.0, 1.0, 5)
    assert between.tells_apart(2), "3 > 3.64 / sqrt(2)"
    assert not between.tells_apart(5), "3 < 5.67 / sqrt(2)"


def test_rows_that_share_a_letter_cannot_be_told_apart() -> None:
    latencies = {0: 10.0, 1: 11.0, 2: 12.0, 3: 20.0}
    apart = [(0, 2), (0, 3), (1, 3), (2, 3)]
    assert letters(latencies, apart) == {0: "a", 1: "ab", 2: "b", 3: "c"}
    assert letters(latencies, []) == dict.fromkeys(latencies, "a")


@given(st.integers(0, 10_000))
def test_letters_say_just_which_pairs_differ(seed: int) -> None:
    dice = random.Random(seed)
    rows = range(dice.randint(1, 7))
    apart = {(i, j) for i in rows for j in rows if i < j and dice.random() < 0.5}
    found = letters({row: dice.random() for row in rows}, apart)
    for i in rows:
        assert found[i]
        for j in rows:
            if i < j:
                assert ((i, j) in apart) == (not set(found[i]) & set(found[j]))
