"""Every format by the reader it is for, with names that could break it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from stmdeploy.check.bundle import MachineKey
from stmdeploy.check.formats import github, services
from stmdeploy.check.formats.junit import junit
from stmdeploy.check.formats.page import histogram, page
from stmdeploy.check.formats.table import check_table, markdown
from stmdeploy.check.outcome import CheckedRow, CheckResult
from stmdeploy.cli.check import FormatOptions, writers

NASTY = "a<b>&\"'|`*_[x](y)#% \u2028é:,\n::error::\x07"
#: As Bencher publishes it (bencher.dev/bmf.json).
BMF_SCHEMA = {
    "type": "object",
    "patternProperties": {
        ".+": {
            "type": "object",
            "patternProperties": {
                ".+": {
                    "type": "object",
                    "properties": {
                        "value": {"type": "number"},
                        "lower_value": {"type": "number"},
                        "upper_value": {"type": "number"},
                    },
                    "required": ["value"],
                }
            },
        }
    },
}
#: Of github-action-benchmark's custom tools, as its README says.
ACTION_SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "unit": {"type": "string"},
            "value": {"type": "number"},
            "range": {"type": "string"},
            "extra": {"type": "string"},
        },
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
    },
}
Build = Callable[..., CheckResult]


def row(verdict: str, **changes: object) -> CheckedRow:
    made = CheckedRow(
        name=f"row of {verdict}", model="m", runtime="onnxruntime", precision="fp32", batch=8,
        verdict=verdict, slowdown_percent=10.0, slowdown_percent_low=7.0,
        slowdown_percent_high=13.5, overall_percent=11.0, overall_percent_low=8.0,
        overall_percent_high=14.0, baseline_others_processors=0.1, candidate_others_processors=0.2,
        threshold_percent=5.0, baseline_latency_ms_p50=10.0,
        candidate_latency_ms_p50=11.0, baseline_throughput_images_s=800.0,
        candidate_throughput_images_s=727.3, pairs=9, measured_s=12.25, gates=(), advice=("do it",),
        baseline_samples_ms=(9.9, 10.0, 10.1), candidate_samples_ms=(10.9, 11.0, 11.1, 400.0),
    )  # fmt: skip
    return made.model_copy(update=changes)


def result(*rows: CheckedRow, cannot_tell: str = "exit-3") -> CheckResult:
    machine = MachineKey(processor="CPU", cores=2, gpu="", driver="", power_limit_w=None)
    return CheckResult(
        stmdeploy_version="0", created_utc="2026-01-01T00:00:00.000+00:00", baseline="b 1",
        candidate="c", way="artifacts", machine=machine, error_probability=0.02,
        cannot_tell=cannot_tell, rows=rows,
    )  # fmt: skip


UNKNOWN = {
    "slowdown_percent": None,
    "slowdown_percent_low": None,
    "slowdown_percent_high": None,
    "overall_percent": None,
    "overall_percent_low": None,
    "overall_percent_high": None,
    "baseline_others_processors": None,
    "candidate_others_processors": None,
    "baseline_latency_ms_p50": None,
    "candidate_latency_ms_p50": None,
    "baseline_throughput_images_s": None,
    "candidate_throughput_images_s": None,
    "baseline_samples_ms": (),
    "candidate_samples_ms": (),
}
EVERYTHING = result(
    row("regression", name=NASTY),
    row("improvement", advice=()),
    row("no change", advice=()),
    row("cannot tell"),
    row("failed", **UNKNOWN),
    row("outputs differ"),
)


def test_every_format_has_a_flag() -> None:
    assert list(writers()) == [field.name for field in fields(FormatOptions)]


def test_junit_is_read_by_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_bytes(junit(EVERYTHING))
    (suite,) = JUnitXml.fromfile(str(path))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (6, 2, 2, 0)
    cases = list(suite)
    # XML has no bell, and a line's end in an attribute is a space.
    assert cases[0].name == NASTY.replace("\x07", "\ufffd")
    kinds = [[type(found) for found in case.result] for case in cases]
    assert kinds == [[Failure], [], [], [Error], [Error], [Failure]]
    assert cases[0].result[0].type == "regression"
    assert "do it" in cases[0].result[0].message
    assert cases[0].time == 12.25
    path.write_bytes(junit(result(row("cannot tell"), cannot_tell="pass")))
    (suite,) = JUnitXml.fromfile(str(path))
    assert [type(found) for found in next(iter(suite)).result] == [Skipped]


def test_bencher_metric_format() -> None:
    document = json.loads(services.bencher(EVERYTHING))
    jsonschema.validate(document, BMF_SCHEMA)
    assert len(document) == 5, "a row without a latency is left out"
    latency = document[NASTY]["latency"]
    assert latency["value"] == 11e6
    assert latency["lower_value"] == pytest.approx(10.7e6)
    assert latency["upper_value"] == pytest.approx(11.35e6)
    assert document[NASTY]["throughput"] == {"value": 727.3}


def test_github_action_benchmark() -> None:
    smaller = json.loads(services.smaller_is_better(EVERYTHING))
    bigger = json.loads(services.bigger_is_better(EVERYTHING))
    for document in (smaller, bigger):
        jsonschema.validate(document, ACTION_SCHEMA)
        assert len(document) == 5
        assert document[0]["name"] == NASTY
    assert (smaller[0]["value"], smaller[0]["unit"]) == (11.0, "ms")
    assert (bigger[0]["value"], bigger[0]["unit"]) == (727.3, "images/s")


def test_annotations_stay_one_command_each() -> None:
    lines = list(github.workflow_commands(EVERYTHING))
    assert [line.partition(" ")[0] for line in lines] == [
        "::error", "::warning", "::error", "::error",
    ]  # fmt: skip
    assert not any("\n" in line for line in lines)
    assert "%25" in lines[0] and "%0A::error::" in lines[0]
    assert lines[0].startswith("::error title=stmdeploy%3A regression::")


def test_the_summary_is_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    github.append_summary(EVERYTHING)
    text = path.read_text()
    assert text.startswith("before\n### Latency: 1 regression, 1 improvement")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    github.append_summary(EVERYTHING)
    assert path.read_text() == text


def test_markdown_is_one_line_a_row() -> None:
    lines = markdown(EVERYTHING).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 6
    cells = len(table[0].replace("\\|", "").split("|"))
    assert {len(line.replace("\\|", "").split("|")) for line in table} == {cells}
    assert "a\\<b\\>" in table[2]


def test_the_table_says_what_to_do() -> None:
    table = check_table(EVERYTHING)
    assert table.cells[0][1:6] == ("regression", "+10.0 %", "+7.0 .. +13.5 %", "+11.0 %", "5 %")
    assert table.cells[4][2:4] == ("-", "-")
    assert any(note.startswith("row of cannot tell: do it") for note in table.notes)
    assert "at most 2 %" in table.notes[-1]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name in ("src", "href") for name, _ in attrs), "it needs nothing else"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_with_markup_stay_text_on_the_page() -> None:
    nasty = "<script>alert(1)</script><b>"
    reader = Reader()
    reader.feed(page(result(row("regression", name=nasty, advice=(nasty,)))).decode())
    assert "script" not in reader.tags
    assert "b" not in reader.tags
    assert reader.text.count(nasty) >= 3
    assert reader.tags.count("rect") == 2 * 48


def test_a_slow_inference_does_not_hide_the_others() -> None:
    samples = tuple(10.0 + i / 100 for i in range(100))
    found = histogram(row("no change", baseline_samples_ms=samples,
                          candidate_samples_ms=(*samples[:-1], 5000.0)))  # fmt: skip
    assert found is not None
    assert found.high_ms < 12.0
    assert max(found.baseline) == 1.0
    assert histogram(row("failed", **UNKNOWN)) is None


@pytest.mark.parametrize(
    ("verdicts", "setting", "code"),
    [
        (["no change", "improvement"], "exit-3", 0),
        (["no change", "regression", "cannot tell", "failed"], "exit-3", 1),
        (["regression", "outputs differ"], "exit-3", 4),
        (["no change", "cannot tell"], "exit-3", 3),
        (["no change", "cannot tell"], "fail", 1),
        (["no change", "cannot tell"], "pass", 0),
        (["cannot tell", "failed"], "pass", 5),
    ],
)
def test_exit_codes(verdicts: list[str], setting: str, code: int) -> None:
    assert result(*map(row, verdicts), cannot_tell=setting).exit_code == code
    assert result(*map(row, verdicts), cannot_tell=setting).figures()["exit_code"] == code
