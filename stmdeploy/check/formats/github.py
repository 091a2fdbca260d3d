"""GitHub Actions: annotations, and the job's summary."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from stmdeploy.check.formats import words
from stmdeploy.check.formats.table import markdown
from stmdeploy.check.outcome import CheckResult
from stmdeploy.check.verdict import Verdict


def workflow_commands(result: CheckResult) -> Iterator[str]:
    """A workflow command, an error or a warning, for every row that needs attention."""
    for row in result.rows:
        if not words.is_good(row):
            level = "warning" if row.verdict == Verdict.CANNOT_TELL else "error"
            title = _property(f"stmdeploy: {row.verdict}")
            yield f"::{level} title={title}::{_data(words.sentence(row))}"


def append_summary(result: CheckResult) -> str:
    """Appends the table to the file that ``GITHUB_STEP_SUMMARY`` names, if it is set.

    Returns:
        A warning if that failed, which does not change the verdict; empty otherwise.
    """
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return ""
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(markdown(result) + "\n")
    except OSError as error:
        return f"WARNING: cannot write GITHUB_STEP_SUMMARY {path}: {error.strerror}"
    return ""


def in_actions() -> bool:
    """Whether a GitHub runner reads what is printed."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
