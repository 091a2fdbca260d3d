"""Pairs of known times: verdicts that do not depend on how busy the machine is.

The workers are real, and so is all that they say of themselves: logits, memory, failures. Only how
long their inferences took is replaced.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import cycle

import pytest

from stmdeploy.check.side_by_side import TURNS, Half, Pair, Side, measure_pair
from stmdeploy.measure.sampling import Turn
from stmdeploy.plugins.progress import Progress

#: How long an inference takes, and one of what `benchmarks.slowed` has made.
_PLAIN_MS, _SLOWED_MS = 1.0, 10.0
#: From pair to pair: how many times longer than that the candidate's inferences take.
_NOISE = (1.0, 1.001, 0.999)
#: How long a pair takes.
_PAIR_S = 3.0
_NS_PER_MS = 1e6


class KnownPairs:
    """Stands for `measure_pair`: runs workers once for all pairs of two sides."""

    def __init__(self) -> None:
        self._measured: dict[str, Pair] = {}
        self._noise = cycle(_NOISE)

    def __call__(
        self,
        baseline: Side,
        candidate: Side,
        timeout_s: float,
        dice: random.Random,
        progress: Progress,
        turns: int = TURNS,
    ) -> Pair:
        key = repr((baseline, candidate, turns))
        if key not in self._measured:
            pair = measure_pair(baseline, candidate, timeout_s, dice, progress, turns)
            self._measured[key] = pair
        pair = self._measured[key]
        after_ms = _known_ms(candidate) * next(self._noise)
        before = _taking(pair.baseline, _known_ms(baseline))
        return Pair(before, _taking(pair.candidate, after_ms), _PAIR_S)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """For baselines and checks."""
        for module in ("baseline", "check"):
            patch.setattr(f"stmdeploy.check.{module}.measure_pair", self)


def _known_ms(side: Side) -> float:
    slowed = b"_slowed_" in side.job.artifact.read_bytes()
    return _SLOWED_MS if slowed else _PLAIN_MS


def _taking(half: Half, ms: float) -> Half:
    def known(turn: Turn) -> Turn:
        count = len(turn.durations_ns)
        return Turn((round(_NS_PER_MS * ms),) * count, (0,) * count)

    return replace(half, turns=tuple(map(known, half.turns)))
