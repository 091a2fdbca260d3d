"""The pytest plugin, in a project of somebody else's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.check.conftest import Made

ROOT = Path(__file__).parents[2]
pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

TESTS = """
import pytest

@pytest.mark.stmdeploy_latency(threshold_percent=60)
def test_unchanged(stmdeploy_latency):
    result = stmdeploy_latency("baseline", "baseline")
    assert result.rows[0].verdict == "no change"

@pytest.mark.stmdeploy_latency(threshold_percent=60)
def test_slowed(stmdeploy_latency):
    stmdeploy_latency("baseline", "slowed")

@pytest.mark.stmdeploy_latency(budget_s=0.1, threshold_percent=0.001, cannot_tell="skip")
def test_unclear(stmdeploy_latency):
    stmdeploy_latency("baseline", "baseline")

def test_unclear_fails_unless_told(stmdeploy_latency):
    stmdeploy_latency("baseline", "baseline", budget_s=0.1, threshold_percent=0.001)

def test_no_baseline(stmdeploy_latency):
    stmdeploy_latency("none")

@pytest.mark.stmdeploy_latency(treshold=3)
def test_misspelt(stmdeploy_latency):
    pass

@pytest.mark.stmdeploy_latency(cannot_tell="skipp")
def test_misspelt_setting(stmdeploy_latency):
    stmdeploy_latency("baseline", "baseline")
"""
#: Without a clock: between equal models one check in twenty finds a difference, if it may be small.
CONFTEST = """
import pytest
from tests.check.known import KnownPairs

KnownPairs().install(pytest.MonkeyPatch())
"""


def test_it_passes_fails_and_skips(
    made: Made, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest(CONFTEST)
    shutil.copytree(made.baseline, pytester.path / "baseline")
    shutil.copytree(made.slowed.parent, pytester.path / "slowed")
    pytester.makepyfile(TESTS)
    run = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", "-rA")
    run.assert_outcomes(passed=1, failed=4, skipped=1, errors=1)
    run.stdout.fnmatch_lines_random(
        [
            "PASSED *::test_unchanged",
            "FAILED *::test_slowed*",
            "check_rivals:net *: regression: *",
            "FAILED *::test_unclear_fails_unless_told*",
            "check_rivals:net *: cannot tell; *",
            "FAILED *::test_no_baseline*",
            "stmdeploy: there is no baseline none; *",
            "*stmdeploy_latency takes threshold_percent, budget_s, cannot_tell, not treshold*",
            "*cannot_tell is 'skipp'; give 'fail', 'skip' or 'pass'*",
        ]
    )
