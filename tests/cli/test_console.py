"""How much a command says beside its results, and how its progress moves."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress as Bar

from stmdeploy.check.formats.table import check_table
from stmdeploy.cli import console
from stmdeploy.cli.drawing import draw
from stmdeploy.cli.main import main
from stmdeploy.cli.profile import _to_go_on
from stmdeploy.cluster.planning import ClusterSpec
from stmdeploy.errors import StmdeployError
from stmdeploy.sweeps.profile import Place
from tests.check.test_formats import result, row


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Later tests hear what is usual."""
    yield
    console.set_talk(quiet=False, verbose=False)


@pytest.mark.usefixtures("here")
def test_quiet_says_warnings_and_errors_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as progress:
        progress.step("exporting")
        progress.warn("a row is finished")
        progress.warn("WARNING: the machine is busy")
    assert capsys.readouterr().err.splitlines() == [
        "exporting", "a row is finished", "WARNING: the machine is busy",
    ]  # fmt: skip
    console.set_talk(quiet=True, verbose=False)
    with console.progress() as progress:
        progress.step("exporting")
        progress.warn("a row is finished")
        progress.warn("WARNING: the machine is busy")
    console.note("rows are in a folder")
    assert capsys.readouterr().err == "WARNING: the machine is busy\n"
    assert main(["inspect", "nothing.onnx", "-q"]) == 2
    assert capsys.readouterr().err.startswith("stmdeploy: ")


@pytest.mark.usefixtures("here")
def test_verbose_says_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nothing.onnx", "-v"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("stmdeploy: ")
    assert main(["inspect", "nothing.onnx"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(StmdeployError, match="exclude each other"):
        console.set_talk(quiet=True, verbose=True)


def test_a_phase_has_a_total_that_does_not_grow() -> None:
    bar = Bar(console=Console(file=io.StringIO()), disable=False)
    task = bar.add_task("", total=0)
    steps = console._Steps(bar, task)
    steps.phase("measuring", 4)
    for name in "abcd":
        steps.expect(1)
        steps.step(name)
    assert (bar.tasks[0].total, bar.tasks[0].completed) == (4, 3)
    steps.step("e")
    steps.step("f")
    assert (bar.tasks[0].total, bar.tasks[0].completed) == (5, 5)
    steps.phase("explaining", 2)
    assert (bar.tasks[0].total, bar.tasks[0].completed) == (2, 0)


def test_what_goes_on_is_a_whole_command() -> None:
    usual, elsewhere = Path("stmdeploy-results"), Path("my results")
    assert _to_go_on(Place(usual), trust=False) == "stmdeploy profile --resume"
    assert _to_go_on(Place(elsewhere), trust=True) == (
        "stmdeploy profile --resume --out 'my results' --trust"
    )
    place = Place(usual, "postgresql+psycopg://user:secret@host/rows", ClusterSpec("auto"))
    told = _to_go_on(place, trust=False)
    assert told == "stmdeploy profile --resume --cluster auto (with the same --store)"


def test_verdicts_stand_out_on_a_terminal_alone() -> None:
    table = check_table(result(row("regression", name="a"), row("no change", name="b")))
    shown = draw(table, 100)
    assert "\x1b[1;31mregression" in shown and "\x1b[32mno change" in shown
    assert "\x1b" not in draw(table)
