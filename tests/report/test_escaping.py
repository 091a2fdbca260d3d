"""Names of somebody else's in every output."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stmdeploy.report.escaping import latex_text, log_line, markdown_text
from stmdeploy.report.profile_table import profile_table
from stmdeploy.report.text_table import TextTable
from stmdeploy.schema.row import Row

EVIL = "a|b<script>alert(1)</script>\n::set-output name=x::y\x1b[2J [l](http://x) `c` _i_ ##[add]"


def test_markdown_shows_signs_and_means_nothing() -> None:
    assert markdown_text("unified_dcn_v3_tiny") == "unified_dcn_v3_tiny"
    assert markdown_text("_a_ *b* ~c~ x|y") == r"\_a\_ \*b\* \~c\~ x\|y"
    shown = markdown_text(EVIL)
    assert "\n" not in shown and "\x1b" not in shown
    assert r"\<script\>" in shown and r"a\|b" in shown and r"\[l\](http" in shown


def test_a_report_in_markdown_and_latex_keeps_its_cells(make_row: Callable[..., Row]) -> None:
    table = profile_table([make_row(model=EVIL, failure=EVIL, measurement=None)])
    markdown = table.markdown().splitlines()
    assert markdown[2].count(" | ") == len(table.headers) - 1
    assert not any("<script>" in line or line.startswith("::") for line in markdown)
    latex = table.latex()
    assert "\x1b" not in latex and "\n::" not in latex
    assert r"\textbackslash{}" in latex_text("\\input{/etc/passwd}")


@pytest.mark.parametrize("text", ["::error::x", "  ::set-env name=a::b", "a ##[command]rm"])
def test_a_line_of_a_log_is_no_command(text: str) -> None:
    line = log_line(text)
    assert not line.lstrip().startswith("::") and "##[" not in line


def test_a_title_is_escaped_too() -> None:
    table = TextTable(("a",), (("1",),), title="<b>", notes=("x\n| y |",))
    assert table.markdown().splitlines()[0] == r"\<b\>"
    assert table.markdown().splitlines()[-1] == r"x \| y \|"
