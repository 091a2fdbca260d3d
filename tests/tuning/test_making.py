"""Artifacts of an earlier race: taken again if they are what they were, but for programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stmdeploy.cli.tuned_file import write_tuned
from stmdeploy.hardware.environment import environment
from stmdeploy.plugins.progress import Silent
from stmdeploy.schema.artifact import read_artifact
from stmdeploy.schema.row import PreparedArtifact
from stmdeploy.spec.fidelity import FidelityLimits
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.tuning import TuneSpec
from stmdeploy.tuning.candidates import usual
from stmdeploy.tuning.making import Making
from tests.report.test_tuned import RACES


def small(folder: Path) -> TuneSpec:
    """A race of a small backbone."""
    model = ModelSpec("unified_convnext_nano", (32, 32), 10)
    return TuneSpec(model, (RunSpec("onnxruntime", 1, 1),), folder)


@pytest.mark.slow
def test_an_artifact_is_made_once_and_a_program_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small(tmp_path)
    first = usual(spec)

    def made() -> PreparedArtifact:
        (entry,) = Making(spec, first, environment(), Silent()).make([first])
        assert entry.exported is not None
        return entry.exported

    one = made()
    assert made() == one
    path = one.path
    assert path is not None and read_artifact(path)
    # Were it a program, whoever gave us the folder could have put it there.
    monkeypatch.setattr("stmdeploy.tuning.making.PROGRAMS", frozenset({".onnx"}))
    assert made().seal != one.seal
    # And what was changed since is made anew, too.
    monkeypatch.undo()
    path.write_bytes(path.read_bytes() + b"x")
    again = made()
    assert again.path == path and read_artifact(path)


def test_the_file_of_flags_names_what_made_the_artifact(tmp_path: Path) -> None:
    (found, *_) = RACES
    spec = replace(small(tmp_path), limits=FidelityLimits(max_error=0.1))
    best = found.named(found.best).model_copy(update={"precision": "int8"})
    others = tuple(one for one in found.candidates if one.name != found.best)
    told = found.model_copy(update={"candidates": (best, *others)})
    text = write_tuned(told, spec).read_text("utf-8")
    assert 'precision = "int8"' in text
    assert f"calibration_images = {spec.calibration.images}" in text
    assert "calibration =" not in text  # noise set the scales
    assert "num_classes = 10" in text and 'image_size = "32x32"' in text
    assert "task =" not in text and "neck" not in text
