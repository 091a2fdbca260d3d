"""A sweep that is killed at random moments, parent or worker, and resumed."""

from __future__ import annotations

import sys

import pytest

from benchmarks import kills


@pytest.mark.nightly
def test_kills_lose_and_double_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kills", "12"])
    monkeypatch.setattr(kills, "BATCHES", "1,2,3,4")
    kills.main()
    assert "no finished row lost, changed or doubled, databases intact" in capsys.readouterr().out
