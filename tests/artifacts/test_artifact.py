"""A form that does not work gives way; what leaks or is wrong in one row is never published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.artifacts import promises as table
from stmdeploy.cli.main import main
from stmdeploy.errors import ExitCode
from stmdeploy.exporters.onnx import OnnxExporter
from stmdeploy.plugins.exporter import Work
from stmdeploy.schema.artifact import read_artifact
from stmdeploy.schema.manifest import Draft
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from tests.fakes import RecordedProgress
from tests.sharing import export_model

MODEL = ModelSpec("unified_convnext_nano", (32, 32), 10)
#: Models whose graphs are not what they are themselves.
PLANTED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 5)

    def forward(self, x):
        y = self.fc(x.flatten(1))
        return self.planted(y) if torch.compiler.is_exporting() else y

class Leaks(Net):
    def planted(self, y):
        return y + 0.05 * (torch.cat((y[1:], y[:1])) - y)

class BadRow(Net):
    def planted(self, y):
        third = torch.arange(y.shape[0]) == 2
        return torch.where(third[:, None], 1.01 * y, y)
"""


class Refuses(OnnxExporter):  # type: ignore[misc]
    """ONNX, as it were if a form did not work."""

    def __init__(self, *forms: str) -> None:
        self.forms, self.tried = forms, list[str]()

    def export(self, work: Work) -> Draft:
        self.tried.append(work.form)
        if work.form in self.forms:
            raise StmdeployError("Attention is not what it was", "", ExitCode.OUTPUTS_DIFFER)
        draft: Draft = super().export(work)
        return draft


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Refuses:
    exporter = Refuses("tokens")
    monkeypatch.setattr("tests.sharing.exporter_for_target", lambda _: exporter)
    return exporter


def test_a_form_that_does_not_work_gives_way(
    refusing: Refuses, tmp_path: Path, progress: RecordedProgress
) -> None:
    artifact = export_model(ExportSpec(MODEL, "onnx", tmp_path), progress)
    manifest = read_artifact(artifact.path).manifest
    assert refusing.tried == ["tokens", "tokens-plain"]
    assert manifest.lowering == "tokens-plain"
    assert manifest.notes == ("tokens does not work: Attention is not what it was",)
    (told,) = progress.warnings
    assert "as tokens does not work for onnx here, tokens-plain is tried instead" in told
    assert len(progress.steps) <= progress.expected


def test_a_form_that_was_asked_for_does_not(
    refusing: Refuses, tmp_path: Path, progress: RecordedProgress
) -> None:
    with pytest.raises(StmdeployError, match="not what it was") as error:
        export_model(ExportSpec(MODEL, "onnx", tmp_path, lowering="tokens"), progress)
    assert error.value.code == ExitCode.OUTPUTS_DIFFER
    assert refusing.tried == ["tokens"]
    assert not list(tmp_path.iterdir())


def test_where_none_works_the_first_reason_counts(
    refusing: Refuses, tmp_path: Path, progress: RecordedProgress
) -> None:
    refusing.forms = ("tokens", "tokens-plain", "reference", "gpu")
    with pytest.raises(StmdeployError, match="not what it was"):
        export_model(ExportSpec(MODEL, "onnx", tmp_path), progress)
    assert refusing.tried == ["tokens", "tokens-plain", "reference", "gpu"]
    assert not list(tmp_path.iterdir())


def test_a_form_that_is_known_to_fail_is_not_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, progress: RecordedProgress
) -> None:
    entry = table._Claim(
        target=("onnx",), lowering=("tokens",), claim="no", why="its Attention leaks"
    )
    claims = (entry, *table._claims())
    monkeypatch.setattr(table, "_claims", lambda: claims)
    manifest = export_model(ExportSpec(MODEL, "onnx", tmp_path), progress).manifest
    assert manifest.lowering == "tokens-plain"
    assert manifest.notes == ("tokens: its Attention leaks",)
    assert progress.warnings == [
        "unified_convnext_nano for onnx as tokens-plain, not as tokens: its Attention leaks"
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Leaks", r"row \d of a batch of 3"),
        ("BadRow", r"in row 2 of a batch of 3, allowed \de-05"),
    ],
)
def test_a_planted_fault_is_refused_and_its_row_named(
    name: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "planted.py").write_text(PLANTED)
    monkeypatch.chdir(tmp_path)
    arguments = ["export", "--model", f"planted:{name}", "--image-size", "32"]
    assert main(arguments) == int(ExitCode.OUTPUTS_DIFFER)
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert re.search(says, last), last
    assert captured.out == ""
    assert not (tmp_path / "stmdeploy-artifacts").exists()
