"""The documentation: it builds without a warning, commands in it parse, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.evidence import FOLDER, Evidence, digest_of, read
from docs.figures import PAGES as FIGURED
from docs.figures import TABLES, tables_of, written
from docs.generate import leaves, write_reference
from stmdeploy.cli.command import flag_of
from stmdeploy.cli.examples import EXAMPLES
from stmdeploy.cli.main import EXIT_CODES, app
from stmdeploy.errors import ExitCode

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    built = subprocess.run(
        [*command, str(ROOT / "docs"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    assert not built.stderr
    assert (tmp_path / "reference" / "commands.html").is_file()


def test_the_reference_has_every_option_field_and_exit_code(tmp_path: Path) -> None:
    write_reference(tmp_path)
    commands = (tmp_path / "commands.md").read_text("utf-8")
    known = dict(leaves(app, "stmdeploy"))
    assert len(known) > 20
    names = re.findall(r"^## (.*)$", commands, re.MULTILINE)
    texts = re.split(r"^## .*$", commands, flags=re.MULTILINE)[1:]
    parts = dict(zip(names, texts, strict=True))
    assert parts.keys() == known.keys()
    for name, function in known.items():
        for field in fields(function.options):
            shown = flag_of(field) or field.name.upper()
            assert f"`{shown}" in parts[name], f"{name} {shown}"
    fields_page = (tmp_path / "fields.md").read_text("utf-8")
    for name in ("latency_ms_p50_low", "relative_l2_error", "within_percent", "ratios"):
        assert f"| `{name}` |" in fields_page
    assert "|  |\n" not in fields_page  # every field says what it is
    codes = (tmp_path / "exit-codes.md").read_text("utf-8")
    assert {int(code) for code in ExitCode} <= EXIT_CODES.keys()
    assert all(f"| {code} |" in codes for code in EXIT_CODES)


def test_every_command_has_three_examples_that_it_understands() -> None:
    known = {name.removeprefix("stmdeploy ") for name in dict(leaves(app, "stmdeploy"))}
    assert EXAMPLES.keys() == known
    for name, lines in EXAMPLES.items():
        assert len(set(lines)) == 3
        for line in lines:
            assert line.startswith(name)
            parse(shlex.split(line))


@pytest.mark.parametrize("page", FIGURED, ids=lambda path: path.name)
def test_tables_in_prose_are_what_the_results_give(page: Path) -> None:
    """`make figures` writes them again."""
    text = page.read_text("utf-8")
    assert "<!-- table:" in text
    assert written(text) == text, f"{page.name} is stale: make figures"


def test_every_table_that_was_measured_is_shown_once() -> None:
    shown = [name for page in FIGURED for name in tables_of(page)]
    assert sorted(shown) == sorted([*TABLES, *(path.stem for path in FOLDER.glob("*.json"))])


def test_a_table_says_where_it_comes_from_and_when_its_code_has_changed() -> None:
    kept = read("engines")
    fresh = kept.model_copy(update={"digest": digest_of(kept.code)})
    told = fresh.markdown()
    assert kept.command in told and kept.date in told and f"stmdeploy {kept.version}" in told
    assert "has changed since" not in told
    assert "has changed since" in fresh.model_copy(update={"digest": "0"}).markdown()
    assert Evidence.model_validate_json(kept.text()) == kept


def test_a_digest_is_of_contents_and_names(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "code.py").write_text("x = 1\n")
        (tmp_path / folder / "notes.md").write_text(folder)
    first = digest_of(["a", "b/code.py"], tmp_path)
    (tmp_path / "a" / "notes.md").write_text("new")
    assert digest_of(["a", "b/code.py"], tmp_path) == first
    (tmp_path / "a" / "code.py").write_text("x = 2\n")
    second = digest_of(["a", "b/code.py"], tmp_path)
    (tmp_path / "a" / "code.py").rename(tmp_path / "a" / "other.py")
    assert len({first, second, digest_of(["a", "b/code.py"], tmp_path)}) == 3


@pytest.mark.nightly
def test_the_tutorial_holds_what_it_says(tmp_path: Path) -> None:
    """Its commands one after the other, in one folder; without those that fetch weights."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for words in commands_of(ROOT / "docs/tutorial.md"):
        plain = [word for word in words if word not in ("--checkpoint", "official")]
        done = subprocess.run(
            ["stmdeploy", *plain], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        # A check that cannot tell has done what it could.
        assert done.returncode in ((0, 3) if words[0] == "check" else (0,)), (words, done.stderr)
    for name in ("stmdeploy-results/report.html", "baseline.tar.gz"):
        assert (tmp_path / name).is_file()


def commands_of(page: Path) -> list[list[str]]:
    """The calls of stmdeploy in a page's console blocks."""
    lines = [
        line
        for block in _BLOCK.findall(page.read_text("utf-8"))
        for line in block.splitlines()
        if line.startswith("$ stmdeploy")
    ]
    return [shlex.split(line.removeprefix("$ "), comments=True)[1:] for line in lines]


def parse(words: list[str]) -> None:
    """Raises what the command line would raise for words that it does not understand."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    while hasattr(command, "commands"):
        context = command.make_context("stmdeploy", list(words), parent=context)
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    command.make_context("stmdeploy", list(words), parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_are_understood(page: Path) -> None:
    for words in commands_of(page):
        parse(words)


def test_there_are_commands_and_a_wrong_one_is_seen() -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 40
    with pytest.raises(typer.TyperException):
        parse(["profile", "--no-such-flag"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in _LINK.findall(page.read_text("utf-8")):
        if "://" not in target and not target.startswith("reference/"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_short_and_says_what_never_ran() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150
    first = "\n".join(lines[:40])
    for words in ("never run on a GPU", "pip install", "stmdeploy profile"):
        assert words in first


@pytest.mark.slow
def test_what_the_tutorial_looks_at_first_works(tmp_path: Path) -> None:
    for words in commands_of(ROOT / "docs" / "tutorial.md")[:2]:
        run = subprocess.run(
            [sys.executable, "-m", "stmdeploy", *words], cwd=tmp_path, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert "unified_convnext_micro" in run.stdout
