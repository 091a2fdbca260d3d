"""Gates that are judged by pairs, of known figures."""

from __future__ import annotations

import numpy as np
import pytest

from stmdeploy.check.gates import MeasuredGate, measured_gates
from stmdeploy.check.side_by_side import Half, Pair
from stmdeploy.check.verdict import ALPHA, Spending
from stmdeploy.measure.sampling import Turn
from tests.check.pairs import half


def watched(name: str, limit: float, pairs: list[Pair]) -> MeasuredGate:
    gate = MeasuredGate(name, limit, Spending(ALPHA / 2))
    for count in range(1, len(pairs) + 1):
        if not gate.settled:
            gate.look(pairs[:count], last=count == len(pairs))
    return gate


def test_only_what_processes_report_is_judged_by_pairs() -> None:
    limits = {"size": 1.0, "tail": 20.0, "load": 5.0, "macs": 0.0}
    assert measured_gates(limits) == ["tail", "load"]


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("load", {"load_ms": 1.3}),
        ("memory", {"memory_peak_mib": 1.3}),
        ("first-inference", {"first_inference_ms": 1.3}),
        ("throughput", {"burst_s": 0.013}),
    ],
)
def test_what_grew_by_a_third(name: str, reported: dict[str, float]) -> None:
    noise = (0.99, 1.0, 1.01)
    pairs = [
        Pair(half([[1.0]]), half([[1.0]], **{k: v * f for k, v in reported.items()}), 3.0)
        for f in noise
    ]
    gate = watched(name, 10.0, pairs)
    found = gate.judged()
    assert found is not None and found.broken
    assert found.growth_percent == pytest.approx(30.0, abs=0.1)
    assert found.growth_percent_low < 30.0 < found.growth_percent_high
    if name == "throughput":
        assert (found.baseline, found.candidate) == pytest.approx((1000.0, 1000 / 1.3))


def test_a_gate_that_cannot_be_told_is_not_broken() -> None:
    pairs = [Pair(half([[1.0]]), half([[1.0]], load_ms=ms), 3.0) for ms in (0.8, 1.3, 1.6)]
    gate = watched("load", 10.0, pairs)
    found = gate.judged()
    assert not gate.settled
    assert found is not None and not found.broken
    assert found.growth_percent_low < 10.0 < found.growth_percent_high


def process(
    dice: np.random.Generator,
    slow_share: float = 0.0,
    factor: float = 1.0,
    disturbed_share: float = 0.0,
    *,
    waiting: bool = False,
) -> Half:
    """160 inferences of a process that as a whole is a little off. Some take twice as long, all of
    it working or waiting; some wait while other programs work, which takes two or three times."""
    durations = factor * np.exp(dice.normal(0.0, 0.02) + dice.normal(0.0, 0.03, 160))
    slow = durations * (dice.random(160) < slow_share)
    waited = durations * dice.uniform(1.0, 2.0, 160) * (dice.random(160) < disturbed_share)
    took, waits = durations + slow + waited, waited + slow * waiting
    turns = (np.round(1e6 * one).astype(int).reshape(32, 5).tolist() for one in (took, waits))
    run = half([]).run.model_copy(update={"others_processors": 2.0 * disturbed_share})
    return Half(tuple(Turn(tuple(a), tuple(b)) for a, b in zip(*turns, strict=True)), run)


def tail_of(dice: np.random.Generator, slow_share: float, factor: float = 1.0) -> MeasuredGate:
    pairs = [Pair(process(dice), process(dice, slow_share, factor), 3.0) for _ in range(11)]
    return watched("tail", 20.0, pairs)


def is_broken(gate: MeasuredGate) -> bool:
    return gate.growth_percent is not None and gate.growth_percent[1] > 20.0


def test_the_tail_gate_finds_three_in_a_hundred_that_take_twice_as_long() -> None:
    dice = np.random.default_rng(3)
    gates = [tail_of(dice, 0.03) for _ in range(40)]
    assert sum(map(is_broken, gates)) >= 36
    far = [one for one in map(MeasuredGate.judged, gates) if one and one.unit == "% beyond p99"]
    # All beyond the common p99 is the candidate's: 2 % of its inferences, none of the others'.
    assert len(far) > 20
    assert np.mean([one.growth_percent for one in far]) == pytest.approx(200.0, rel=0.1)
    assert np.mean([one.candidate for one in far]) == pytest.approx(2.0, rel=0.1)
    assert np.mean([one.baseline for one in far]) == pytest.approx(0.0, abs=0.1)


def test_the_tail_gate_does_not_alarm_about_equals_nor_about_where_they_lie() -> None:
    dice = np.random.default_rng(4)
    gates = [tail_of(dice, 0.0, factor) for factor in (1.0, 1.04) * 60]
    assert not any(map(is_broken, gates))


@pytest.mark.parametrize(("slow_share", "found"), [(0.03, range(36, 41)), (0.0, range(1))])
def test_what_other_programs_do_does_not_hide_a_tail(slow_share: float, found: range) -> None:
    dice = np.random.default_rng(5)
    gates = []
    for _ in range(40):
        pairs = [
            Pair(process(dice, 0.0, 1.0, 0.3), process(dice, slow_share, 1.0, 0.3), 5.0)
            for _ in range(11)
        ]
        gates.append(watched("tail", 20.0, pairs))
    assert sum(map(is_broken, gates)) in found


def test_a_candidate_that_waits_for_itself_has_that_tail() -> None:
    dice = np.random.default_rng(6)
    pairs = [Pair(process(dice), process(dice, 0.03, waiting=True), 3.0) for _ in range(11)]
    assert is_broken(watched("tail", 20.0, pairs))
