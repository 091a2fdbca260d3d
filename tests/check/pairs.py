"""Pairs of workers as the check gets them, of known times."""

from __future__ import annotations

from collections.abc import Sequence

from stmdeploy.check.side_by_side import Half, Pair
from stmdeploy.measure.sampling import Turn
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import TurnsRun
from tests.fakes import TEST_ENVIRONMENT


def half(turns_ms: Sequence[Sequence[float]], **reported: object) -> Half:
    """A process whose inferences took so many ms, turn by turn."""
    run = TurnsRun(
        runtime_import_ms=1.0, load_ms=1.0, first_inference_ms=1.0, memory_peak_mib=1.0,
        runtime_facts={}, outputs=(), environment=Environment.model_validate(TEST_ENVIRONMENT),
        burst_runs=10, burst_s=0.01, others_processors=0.0,
    )  # fmt: skip
    turns = tuple(
        Turn(tuple(round(1e6 * ms) for ms in turn), (0,) * len(turn)) for turn in turns_ms
    )
    return Half(turns, run.model_copy(update=reported))


def pair(ratio: float, *, load: float = 1.0) -> Pair:
    """A candidate that is so many times slower, and loads so many times as long; 3 s."""
    return Pair(half([[1.0] * 5] * 8), half([[ratio] * 5] * 8, load_ms=load), 3.0)
