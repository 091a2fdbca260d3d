"""Turns of a side, with a clock that is known."""

from __future__ import annotations

import numpy as np
import pytest

from stmdeploy.measure.calm import OthersUse
from stmdeploy.measure.sampling import Turn
from stmdeploy.measure.session import Model
from stmdeploy.measure.turns import (
    BURST_S,
    NONE,
    TURN_S,
    WARM_RUNS,
    from_words,
    take_turns,
    to_words,
)
from stmdeploy.schema.hardware import Environment
from tests.fakes import TEST_ENVIRONMENT, FakeClock, FakeRunner

MS = 1_000_000


def test_words() -> None:
    turn = Turn((12, 3), (0, 1))
    assert from_words(to_words(turn)) == turn
    assert from_words(to_words(NONE)) == NONE


def test_a_cold_cache_is_emptied_before_every_inference_of_a_turn() -> None:
    clock, flushed, left = FakeClock(), list[int](), iter([True, False])
    runner = FakeRunner(clock, [10.0] * 100)

    def flush() -> None:
        flushed.append(runner.runs)
        clock.advance_ms(1.0)

    run = take_turns(
        Model(
            import_runtime=lambda: None,
            load=lambda: runner,
            make_inputs=lambda: (np.zeros((1, 3, 2, 2), np.float32),),
            check=lambda _runner, _images: None,
        ),
        clock, Environment.model_validate(TEST_ENVIRONMENT), OthersUse(lambda: 0.0),
        lambda _: next(left), flush,
    )  # fmt: skip
    first = 1 + WARM_RUNS
    assert flushed == list(range(first, runner.runs - run.burst_runs)) and len(flushed) > 3


def test_a_side_takes_turns_until_it_is_told_nothing_more() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, [10.0] * 100)
    told, left = list[Turn](), iter([True, True, False])

    def next_turn(taken: Turn) -> bool:
        told.append(taken)
        return next(left)

    run = take_turns(
        Model(
            import_runtime=lambda: clock.advance_ms(40.0),
            load=lambda: runner,
            make_inputs=lambda: (np.zeros((1, 3, 2, 2), np.float32),),
            check=lambda _runner, _images: None,
        ),
        clock,
        Environment.model_validate(TEST_ENVIRONMENT),
        OthersUse(lambda: 0.0),
        next_turn,
    )
    a_turn = round(TURN_S / 0.010)
    assert told[0] == NONE
    for turn in told[1:]:
        assert turn.durations_ns == (10 * MS,) * (a_turn - 1), "but for the cold one"
    assert run.burst_runs == round(BURST_S / 0.010)
    assert run.burst_s == pytest.approx(BURST_S)
    assert runner.runs == 1 + WARM_RUNS + 2 * a_turn + run.burst_runs
    assert run.runtime_import_ms == 40.0
    assert run.first_inference_ms == 10.0
    assert run.outputs == ((0.0,),)
