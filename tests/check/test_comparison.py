"""When a row has been measured enough, with waves and a clock that are known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stmdeploy.check.comparison import Comparison
from stmdeploy.check.side_by_side import Half, Pair, Wave
from stmdeploy.check.verdict import Spending, Verdict, paired_slowdown
from stmdeploy.measure.turns import Inference
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import TurnsRun
from tests.conftest import TEST_ENVIRONMENT

RUN = TurnsRun(
    runtime_import_ms=1.0, load_ms=1.0, first_inference_ms=1.0, memory_peak_mib=1.0,
    runtime_facts={}, logits=(), environment=Environment.model_validate(TEST_ENVIRONMENT),
)  # fmt: skip


def wave(*ratios: float) -> list[Pair]:
    return [
        Pair(
            Half((Inference(1_000_000),) * 5, RUN),
            Half((Inference(round(1_000_000 * ratio)),) * 5, RUN),
        )
        for ratio in ratios
    ]


class Waves:
    """Gives waves one by one; each takes three seconds."""

    def __init__(self, waves: Iterator[list[Pair]]) -> None:
        self.waves = waves

    def measure(self) -> Wave:
        return Wave(next(self.waves), 3.0)


def compared(*waves: list[Pair], budget_s: float = 20.0) -> Comparison:
    source = Waves(iter(waves))
    comparison = Comparison(source.measure, paired_slowdown, 5.0, budget_s, Spending(1))
    while not comparison.finished:
        comparison.step()
    return comparison


def test_a_clear_answer_ends_it_early() -> None:
    found = compared(wave(1.0, 1.0005, 0.9995), *[wave(1.0)] * 9)
    assert found.verdict is Verdict.NO_CHANGE
    assert len(found.figures) == 1
    found = compared(wave(1.2, 1.2005, 1.1995), *[wave(1.0)] * 9)
    assert found.verdict is Verdict.REGRESSION
    found = compared(wave(0.8, 0.8005, 0.7995), *[wave(1.0)] * 9)
    assert found.verdict is Verdict.IMPROVEMENT


def test_it_goes_on_until_the_budget() -> None:
    # Seven waves take 21 s: an eighth would end 2.5 s nearer to 24 than the seventh to 20.
    found = compared(*[wave(0.9, 1.05, 1.2)] * 20)
    assert found.verdict is Verdict.CANNOT_TELL
    assert len(found.figures) == 7
    assert len(found.pairs) == 21


def test_a_short_budget_still_has_one_look() -> None:
    found = compared(wave(1.3, 1.31, 1.29), budget_s=1.0)
    assert found.verdict is Verdict.REGRESSION
    assert len(found.figures) == 1


def test_a_disturbed_wave_is_outweighed() -> None:
    quiet = wave(1.0, 1.002, 0.998)
    found = compared(wave(1.0, 1.4, 0.99), quiet, quiet, quiet, *[quiet] * 9)
    assert found.verdict is Verdict.NO_CHANGE
    assert found.slowdown.percent == pytest.approx(0.0, abs=0.2)
