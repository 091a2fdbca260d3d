"""Rows in waves that fit into memory, all comparable by the reference."""

from __future__ import annotations

from stmdeploy.sweeps.blocks import blocks


def test_what_fits_is_one_block() -> None:
    assert blocks([0, 1, 2], 1, dict.fromkeys(range(3), 100.0), 1000.0) == [[1, 0, 2]]


def test_what_does_not_fit_shares_the_reference() -> None:
    memory = {0: 200.0, 1: 200.0, 2: 200.0, 3: 900.0, 4: 100.0}
    assert blocks([0, 1, 2, 3, 4], 0, memory, 1000.0) == [[0, 1, 2], [0, 3], [0, 4]]


def test_a_complete_reference_is_measured_with_what_is_left() -> None:
    assert blocks([2], 0, {0: 1.0, 2: 1.0}, 1000.0) == [[0, 2]]
    assert blocks([], 0, {0: 1.0}, 1000.0) == []


def test_without_a_reference_rows_still_take_turns() -> None:
    assert blocks([3, 4], None, {3: 1.0, 4: 1.0}, 1000.0) == [[3, 4]]


def test_the_reference_alone() -> None:
    assert blocks([0], 0, {0: 1.0}, 1000.0) == [[0]]


def test_many_rows_are_not_all_alive() -> None:
    found = blocks(list(range(60)), 0, dict.fromkeys(range(60), 1.0), 1e6)
    assert [len(block) for block in found] == [24, 24, 14]
    assert all(block[0] == 0 for block in found)
