"""Rows in waves that fit into memory, all comparable by the reference."""

from __future__ import annotations

from stmdeploy.sweeps.blocks import HOST, Memory, blocks, free_memory


def host(*mib: float) -> dict[int, dict[str, float]]:
    """What rows take of the host's memory."""
    return {row: {HOST: taken} for row, taken in enumerate(mib)}


def test_what_fits_is_one_block() -> None:
    assert blocks([0, 1, 2], 1, host(100, 100, 100), {HOST: 1000}) == [[1, 0, 2]]


def test_what_does_not_fit_shares_the_reference() -> None:
    memory = host(200, 200, 200, 900, 100)
    assert blocks([0, 1, 2, 3, 4], 0, memory, {HOST: 1000}) == [[0, 1, 2], [0, 3], [0, 4]]


def test_what_does_not_fit_onto_its_gpu_shares_the_reference() -> None:
    """Two GPUs: rows 1 and 2 are on the first one with the reference, rows 3 and 4 on the other."""
    gpus = ["GPU-a", "GPU-a", "GPU-a", "GPU-b", "GPU-b"]
    memory = {row: Memory(10, 250).by_place(gpu) for row, gpu in enumerate(gpus)}
    free = {HOST: 1000.0, "GPU-a": 1000.0, "GPU-b": 400.0}
    assert blocks([0, 1, 2, 3, 4], 0, memory, free) == [[0, 1], [0, 2], [0, 3], [0, 4]]
    assert blocks([0, 1, 2, 3, 4], 0, memory, {HOST: 1000.0}) == [[0, 1, 2, 3, 4]]


def test_a_gpu_that_does_not_tell_limits_nothing() -> None:
    assert free_memory(["", "GPU-nowhere"]).keys() == {HOST}


def test_a_complete_reference_is_measured_with_what_is_left() -> None:
    assert blocks([2], 0, host(1, 1, 1), {HOST: 1000}) == [[0, 2]]
    assert blocks([], 0, host(1), {HOST: 1000}) == []


def test_without_a_reference_rows_still_take_turns() -> None:
    assert blocks([3, 4], None, host(1, 1, 1, 1, 1), {HOST: 1000}) == [[3, 4]]


def test_the_reference_alone() -> None:
    assert blocks([0], 0, host(1), {HOST: 1000}) == [[0]]


def test_many_rows_are_not_all_alive() -> None:
    found = blocks(list(range(60)), 0, host(*[1] * 60), {HOST: 1e6})
    assert [len(block) for block in found] == [24, 24, 14]
    assert all(block[0] == 0 for block in found)
