"""Turns of a side, with a clock and delays that are known."""

from __future__ import annotations

import numpy as np
import pytest

from stmdeploy.measure import turns
from stmdeploy.measure.session import Model
from stmdeploy.measure.turns import (
    CALM_RUNS,
    COLD_RUNS,
    WARM_RUNS,
    Inference,
    RunDelay,
    from_words,
    one_turn,
    take_turns,
    to_words,
)
from stmdeploy.schema.hardware import Environment
from tests.conftest import TEST_ENVIRONMENT
from tests.fakes import FakeClock, FakeRunner

MS = 1_000_000


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What every inference is told that its threads waited, in turn; then nothing."""
    told: list[int] = []

    class FakeDelay:
        def __init__(self) -> None:
            self.total, self.asked = 0, 0

        def total_ns(self) -> int:
            self.asked += 1
            if self.asked % 2 == 0 and told:  # after an inference
                self.total += told.pop(0)
            return self.total

        def close(self) -> None: ...

    monkeypatch.setattr(turns, "RunDelay", FakeDelay)
    return told


@pytest.mark.usefixtures("delays")
def test_a_calm_turn_is_short_and_leaves_the_cold_run_out() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, [50.0, 10.0, 11.0, 12.0, 13.0])
    kept = one_turn(runner.run, clock)
    assert [one.duration_ns / MS for one in kept] == [10.0, 11.0, 12.0]
    assert runner.runs == COLD_RUNS + CALM_RUNS
    assert all(one.calm for one in kept)


def test_a_disturbed_turn_goes_on(delays: list[int]) -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, [10.0] * 40)
    delays += [5 * MS] * 4
    kept = one_turn(runner.run, clock)
    assert [one.calm for one in kept] == [False] * 4 + [True] * CALM_RUNS


def test_a_turn_ends_at_its_limit(delays: list[int]) -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, [10.0] * 200)
    delays += [5 * MS] * 200
    assert len(one_turn(runner.run, clock)) == 29, "0.3 s, the cold run included"


def test_one_inference_is_kept_however_long_it_takes(delays: list[int]) -> None:
    clock = FakeClock()
    delays += [900 * MS]
    assert len(one_turn(FakeRunner(clock, [900.0] * 3).run, clock)) == 1


def test_calm_is_a_share_of_the_inference() -> None:
    assert Inference(1000, 30).calm
    assert not Inference(1000, 31).calm


def test_words() -> None:
    said = [Inference(12, 3), Inference(5)]
    assert from_words(to_words(said)) == said
    assert to_words([]) == ""


@pytest.mark.usefixtures("delays")
def test_a_side_takes_turns_until_it_is_told_nothing_more() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, [10.0] * 100)
    told, left = list[list[Inference]](), iter([True, True, False])

    def next_turn(taken: list[Inference]) -> bool:
        told.append(taken)
        return next(left)

    run = take_turns(
        Model(
            import_runtime=lambda: clock.advance_ms(40.0),
            load=lambda: runner,
            make_images=lambda: np.zeros((1, 3, 2, 2), np.float32),
            check=lambda _runner, _images: None,
        ),
        clock,
        Environment.model_validate(TEST_ENVIRONMENT),
        next_turn,
    )
    assert [len(turn) for turn in told] == [0, CALM_RUNS, CALM_RUNS]
    assert runner.runs == 1 + WARM_RUNS + 2 * (COLD_RUNS + CALM_RUNS)
    assert run.runtime_import_ms == 40.0
    assert run.first_inference_ms == 10.0
    assert run.logits == (0.0,)


def test_run_delay_is_read_or_nothing() -> None:
    delay = RunDelay()
    first = delay.total_ns()
    assert 0 <= first <= delay.total_ns()
    delay.close()
    assert delay.total_ns() == 0, "what is closed tells nothing, and breaks nothing"
