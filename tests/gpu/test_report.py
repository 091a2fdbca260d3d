"""`make gpu-report`: one block to paste, whatever fails on the way."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu_report
from benchmarks.gpu_report import Piece, block, pieces, run
from stmdeploy.hardware.nvml import Gpu

ROOT = Path(__file__).parents[2]


def python(code: str, name: str = "piece") -> Piece:
    return Piece(name, (sys.executable, "-c", code), str.strip)


def test_a_piece_that_fails_is_named_and_the_next_goes_on() -> None:
    later = time.monotonic() + 60
    outcomes = [
        run(python("print('a table')", "table"), later),
        run(python("import sys; print('half'); sys.exit('no driver')", "tests"), later),
        run(Piece("page", ("/no/such/program",), str.strip), later),
    ]
    assert [outcome.code for outcome in outcomes] == [0, 1, 127]
    text = block(outcomes)
    assert text.startswith("----- paste from here -----")
    assert text.endswith("----- to here -----")
    assert "## table: done" in text and "a table" in text
    assert "## tests: FAILED with exit code 1" in text and "half\nno driver" in text
    assert "## page: FAILED with exit code 127" in text


def test_a_piece_that_hangs_is_ended() -> None:
    outcome = run(python("import time; time.sleep(60)"), time.monotonic() + 0.5)
    assert outcome.code == 124
    assert outcome.seconds < 30
    assert "ended after" in outcome.text


def test_its_commands_exist() -> None:
    """Every flag that it uses is one of the command line."""
    from typer.testing import CliRunner

    from stmdeploy.cli.main import app

    for piece in pieces("l4", Path("out"))[1:]:
        command = piece.command[3]
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        for word in piece.command[4:]:
            assert not word.startswith("--") or word in shown, (command, word)


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_report, "installed_gpus", lambda: ())
    assert gpu_report.main([]) == 2
    assert "no NVIDIA GPU here" in capsys.readouterr().out


def test_all_pieces_in_one_block(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_report, "installed_gpus", lambda: (Gpu("NVIDIA L4", "GPU-0"),))
    asked = []

    def some(gpu: str, out: Path) -> tuple[Piece, ...]:
        asked.append((gpu, out))
        return python("print(1)", "one"), python("import sys; sys.exit(3)", "two")

    monkeypatch.setattr(gpu_report, "pieces", some)
    assert gpu_report.main(["--out", str(tmp_path)]) == 5
    assert asked == [("l4", tmp_path)]
    told = capsys.readouterr().out
    assert "NVIDIA L4, default, profile l4" in told
    assert "## one: done" in told and "## two: FAILED with exit code 3" in told


def test_every_claim_of_the_documentation_has_its_test() -> None:
    """The twenty claims that the first run on a GPU is to check."""
    page = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    claims = re.findall(r"^(\d+)\. .*?`(test_\w+)`", page, re.M | re.S)
    assert [int(number) for number, _ in claims] == list(range(1, 21))
    source = (ROOT / "tests" / "gpu" / "test_on_gpu.py").read_text("utf-8")
    missing = [name for _, name in claims if f"def {name}(" not in source]
    assert missing == []
