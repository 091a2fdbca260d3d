"""Thresholds by row, from a file or from flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.check.policy import Policy, RowPolicy, read_policy

PROJECT = """
[tool.stmdeploy.check]
threshold-percent = 4
budget-s = 30
cannot-tell = "fail"
gates = { memory = 10 }

[[tool.stmdeploy.check.rows]]
match = "*dcn*"
threshold-percent = 8

[[tool.stmdeploy.check.rows]]
match = "*/batch8"
budget-s = 90
gates = { macs = 0 }
"""


def test_patterns_change_what_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_policy(None) == Policy()
    Path("pyproject.toml").write_text(PROJECT)
    policy = read_policy(None)
    assert policy.cannot_tell == "fail"
    assert policy.of("pvt/onnxruntime/fp32/batch1") == RowPolicy(4, 30, {"memory": 10})
    assert policy.of("dcn/onnxruntime/fp32/batch1") == RowPolicy(8, 30, {"memory": 10})
    assert policy.of("dcn/onnxruntime/fp32/batch8") == RowPolicy(8, 90, {"memory": 10, "macs": 0})
    assert policy.unused(["dcn/x/batch1"]) == ("*/batch8",)
    assert policy.over({"threshold-percent": 1.0}).of("dcn/x/batch8").threshold_percent == 1.0


def test_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "check.toml"
    path.write_text("threshold-percent = 3\n")
    assert read_policy(path).of("any").threshold_percent == 3
    path.write_text(PROJECT)
    assert read_policy(path).of("any").threshold_percent == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threshold = 3", "unknown key 'threshold'; did you mean 'threshold-percent'"),
        ("threshold-percent = 0", "threshold-percent is 0; give a number above 0"),
        ("threshold-percent = true", "threshold-percent is True"),
        ("budget-s = 'long'", "budget-s is 'long'"),
        ("budget-s = inf", "budget-s is inf"),
        ("gates = 3", "gates is not a table"),
        ("gates = { speed = 3 }", "unknown gate 'speed'"),
        ("gates = { macs = -2 }", "gate macs is -2"),
        ("cannot-tell = 'perhaps'", "unknown cannot-tell 'perhaps'"),
        ("cannot-tell = 3", "unknown cannot-tell 3"),
        ("rows = 3", "rows is not a list"),
        ("rows = [3]", "3 is not a table"),
        ("[[rows]]\nbudget-s = 3", "an entry of rows has no match"),
        ("[[rows]]\nmatch = 'x'\nbudget-s = -3", "budget-s is -3"),
        ("x = [", "is not TOML"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "check.toml"
    path.write_text(text)
    with pytest.raises(StmdeployError) as told:
        read_policy(path)
    assert message in str(told.value)
    assert str(path) in str(told.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match="no such file"):
        read_policy(tmp_path / "none.toml")
