"""Waves of known times: verdicts that do not depend on how busy the machine is.

The workers are real, and so is all that they say of themselves: logits, memory, failures. Only how
long their inferences took is replaced.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from stmdeploy.check import side_by_side
from stmdeploy.check.side_by_side import Half, Pair, Side, Wave, measure_wave
from stmdeploy.measure.turns import Inference
from stmdeploy.plugins.progress import Progress

#: How long an inference takes, and one of what `benchmarks.slowed` has made.
_PLAIN_MS, _SLOWED_MS = 1.0, 10.0
#: The pairs of a wave: how many times longer than that the candidate's inferences take.
_NOISE = (1.0, 1.001, 0.999)
#: How long a wave takes.
_WAVE_S = 3.0
_NS_PER_MS = 1e6


class KnownWaves:
    """Stands for `measure_wave`: runs one pair of workers, once for all waves of two sides."""

    def __init__(self) -> None:
        self._measured: dict[str, Pair] = {}

    def __call__(
        self,
        baseline: Side,
        candidate: Side,
        timeout_s: float,
        dice: random.Random,
        progress: Progress,
    ) -> Wave:
        key = repr((baseline, candidate))
        if key not in self._measured:
            with pytest.MonkeyPatch.context() as alone:
                alone.setitem(side_by_side.PAIRS_AT_ONCE, "cpu", 1)
                wave = measure_wave(baseline, candidate, timeout_s, dice, progress)
            (self._measured[key],) = wave.pairs
        pair = self._measured[key]
        before = _taking(pair.baseline, _known_ms(baseline))
        after_ms = _known_ms(candidate)
        pairs = [Pair(before, _taking(pair.candidate, after_ms * more)) for more in _NOISE]
        return Wave(pairs, _WAVE_S)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """For baselines and checks."""
        for module in ("baseline", "check"):
            patch.setattr(f"stmdeploy.check.{module}.measure_wave", self)


def _known_ms(side: Side) -> float:
    slowed = b"_slowed_" in side.job.artifact.read_bytes()
    return _SLOWED_MS if slowed else _PLAIN_MS


def _taking(half: Half, ms: float) -> Half:
    return replace(half, inferences=(Inference(round(_NS_PER_MS * ms)),) * len(half.inferences))
