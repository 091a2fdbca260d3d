"""A pytest plugin: a latency check as an assertion in a project's own tests.

@pytest.mark.stmdeploy_latency(threshold_percent=5, budget_s=20)
def test_latency(stmdeploy_latency):
    stmdeploy_latency("baseline.tar.gz", "artifacts/model.onnx")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stmdeploy.check.outcome import CheckResult

MARKER = "stmdeploy_latency"
_SETTINGS = ("threshold_percent", "budget_s", "cannot_tell")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(threshold_percent=5, budget_s=60, cannot_tell='fail'): settings of the "
        f"{MARKER} fixture; cannot_tell is 'fail', 'skip' or 'pass'",
    )


@pytest.fixture
def stmdeploy_latency(request: pytest.FixtureRequest) -> Callable[..., CheckResult]:
    """A function that checks a candidate against a baseline, and fails the test on a regression.

    It takes the path of the baseline, that of the candidate (without one, the baseline's models
    are exported again), and the settings that the marker takes.
    """
    marker = request.node.get_closest_marker(MARKER)
    settings = dict(marker.kwargs) if marker else {}
    for name in settings:
        if name not in _SETTINGS:
            raise pytest.UsageError(f"{MARKER} takes {', '.join(_SETTINGS)}, not {name}")

    def check(
        baseline: str | Path, candidate: str | Path | None = None, **changes: object
    ) -> CheckResult:
        return _checked(Path(baseline), candidate, {**settings, **changes})

    return check


def _checked(
    baseline: Path, candidate: str | Path | None, settings: dict[str, object]
) -> CheckResult:
    from stmdeploy.check import check as checking
    from stmdeploy.check.formats import words
    from stmdeploy.check.policy import Policy, RowPolicy
    from stmdeploy.errors import ExitCode, StmdeployError
    from stmdeploy.plugins.progress import Silent

    unsure = settings.pop("cannot_tell", "fail")
    if unsure not in ("fail", "skip", "pass"):
        raise pytest.UsageError(f"cannot_tell is {unsure!r}; give 'fail', 'skip' or 'pass'")
    policy = Policy(RowPolicy(**settings))  # type: ignore[arg-type]
    spec = checking.CheckSpec(baseline, Path(candidate) if candidate else None, policy=policy)
    result = None
    try:
        result = checking.check(spec, Silent())
    except StmdeployError as error:
        code, told = error.code, f"stmdeploy: {error}"
    else:
        code, told = result.exit_code, "\n".join(map(words.sentence, result.rows))
    if code is ExitCode.CANNOT_TELL and unsure == "skip":
        pytest.skip(told)
    passes = (ExitCode.OK, ExitCode.CANNOT_TELL) if unsure == "pass" else (ExitCode.OK,)
    if result is None or code not in passes:
        pytest.fail(told, pytrace=False)
    return result
