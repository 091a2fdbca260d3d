"""Who runs in which wave of a race."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from stmdeploy.measure.racing import Race
from stmdeploy.plugins.progress import Silent
from stmdeploy.tuning.candidates import Candidate, artifacts, reference, usual
from stmdeploy.tuning.making import Entry, Making
from stmdeploy.tuning.tune import Tuning
from tests.tuning.test_making import small


@pytest.mark.parametrize(("blocks", "stay"), [(1, False), (2, True)])
def test_those_that_all_are_compared_with_need_not_stay(
    blocks: int, stay: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(self: Making, candidates: Iterable[Candidate]) -> list[Entry]:
        new = [Entry(one) for one in candidates]
        self.entries.update({one.candidate.name: one for one in new})
        return new

    def alive(_: Tuning, names: Sequence[str]) -> list[list[str]]:
        return [list(names)[i::blocks] for i in range(blocks)]

    monkeypatch.setattr(Making, "make", make)
    monkeypatch.setattr(Tuning, "_blocks", alive)
    spec = small(tmp_path)
    tuning = Tuning(spec, Silent())
    guests = [usual(spec), reference(spec)]
    racing = [one for one in artifacts(spec) if one not in guests][:3]
    tuning.enter([*guests, *racing])
    both, left = [one.name for one in guests], [one.name for one in racing]
    assert set(tuning.players(9)) == {*both, *left}  # as long as they may win themselves
    monkeypatch.setattr(Race, "left", left)
    assert tuning.players(8) == [*both, *left]
    assert tuning.players(9) == ([*both, *left] if stay else left)
