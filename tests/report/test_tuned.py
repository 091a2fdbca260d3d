"""The table of a race: of the races in the repository."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stmdeploy.cli.drawing import draw
from stmdeploy.report.tuned import tuned_table
from stmdeploy.schema.tuned import Tuned

RACES = [
    Tuned.model_validate(one)
    for path in sorted((Path(__file__).parents[2] / "results").glob("*/tune.json"))
    for one in json.loads(path.read_text("utf-8"))["tuned"]
]


@pytest.mark.parametrize("columns", [80, 120, 160])
def test_the_key_columns_fit_every_terminal(columns: int) -> None:
    for found in RACES:
        lines = draw(tuned_table(found), columns).splitlines()
        assert all(len(_bare(line)) <= columns for line in lines)
        head = next(line for line in lines if "configuration" in line)
        assert "x best" in head and "settings" in head


def test_every_candidate_says_why() -> None:
    for found in RACES:
        table = tuned_table(found)
        assert len(table.cells) == len(found.candidates)
        assert table.cells[0][0] == "best" and table.cells[0][3] == "1"
        assert all(cells[-1] for cells in table.cells[1:])
        notes = " ".join(table.notes)
        assert found.best in notes and found.environment.processor in notes
        assert ("Limits:" in notes) == (found.max_error is not None)


def _bare(line: str) -> str:
    """A line without what makes it bold, or coloured."""
    return re.sub(r"\x1b\[[\d;]*m", "", line)
