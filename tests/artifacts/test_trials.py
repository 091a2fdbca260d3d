"""Which parts are tried first, and how the choice is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from stmdeploy import StmdeployError
from stmdeploy.artifacts import trials as module
from stmdeploy.artifacts.trials import Trials, in_order
from stmdeploy.backbones.source import build_model
from stmdeploy.errors import ExitCode
from stmdeploy.measure.fidelity import Outcome
from stmdeploy.plugins.registry import exporters
from stmdeploy.schema.mixed import Kept, PartCost
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.export import CalibrationSpec, ExportSpec
from stmdeploy.spec.fidelity import FidelityLimits
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.trials import TrialSpec
from tests.digits import write_digits
from tests.fakes import RecordedProgress

SMALL = ModelSpec("unified_convnext_nano", image_size=(32, 32), num_classes=10)


def cost(part: str, error: float, saved_ms: float | None) -> PartCost:
    kept = Kept(relative_l2_error=error, agreement_percent=100.0, top1_drop_percent=None)
    full = None if saved_ms is None else 1.0
    low = None if saved_ms is None else 1.0 - saved_ms
    return PartCost(part=part, kept=kept, fp32_ms=full, low_ms=low)


def test_the_most_saved_for_the_error_added_comes_first() -> None:
    parts = [cost("a", 0.1, 0.2), cost("b", 0.01, 0.1), cost("c", 0.01, 0.3), cost("d", 1e-6, -0.1)]
    assert in_order(parts) == ["c", "b", "a"], "d would become slower"
    assert in_order([cost("a", 0.1, None), cost("b", 0.01, None)]) == ["b", "a"]
    overflows = cost("e", 0.1, 0.5).model_copy(
        update={"kept": Kept(relative_l2_error=None, agreement_percent=0.0, top1_drop_percent=None)}
    )
    assert in_order([*parts, overflows]) == ["c", "b", "a"]


@pytest.mark.parametrize("right", range(12))
def test_the_largest_that_holds(right: int) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number <= right

    assert module._largest(11, holds) == right
    assert len(asked) <= 5


def spec_of(folder: Path, **more: Any) -> TrialSpec:
    export = ExportSpec(SMALL, "onnx", folder, "int8", calibration=CalibrationSpec(images=4))
    given = {"data": None, "choosing": 6, "held_out": 6, "batch": 4, **more}
    return TrialSpec(export, folder / "trials", **given)


def trials_of(spec: TrialSpec) -> Trials:
    progress = RecordedProgress()
    spec.folder.mkdir(parents=True, exist_ok=True)
    return Trials(build_model(SMALL, progress), exporters()["onnx"], spec, progress)


@pytest.mark.slow
def test_every_part_alone_and_what_is_kept_of_it(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    found = trials_of(spec).sensitivity()
    parts = {one.part: one for one in found.parts}
    assert set(parts) >= {"stem", "stage 1 mixer", "stage 4 mlp", "head"}
    assert not any("norm" in part for part in parts), "int8 leaves norms as they are"
    whole = found.together.relative_l2_error
    assert whole is not None
    assert whole > max(p.kept.relative_l2_error or 0.0 for p in found.parts) > 0
    assert all(one.saved_ms is not None for one in found.parts)
    assert (found.images, found.calibrating, found.data) == (6, 4, "random")
    again = trials_of(spec)
    again._logits = None  # type: ignore[assignment,method-assign]  # nothing is run again
    assert again.sensitivity() == found


class Known(Trials):
    """Whose parts and errors are made up: that of a candidate is the root of its parts' squares."""

    errors: ClassVar = {"a": 0.01, "b": 0.02, "c": 0.04, "d": 0.08}
    parts = tuple(errors)

    def outcome(self, kept: tuple[str, ...], *, held_out: bool) -> Outcome:
        squares = sum(e**2 for part, e in self.errors.items() if part not in kept)
        count = 400 if held_out else 64
        noise = np.random.default_rng(int(held_out)).uniform(0.8, 1.2, count)
        return Outcome(squares * noise, np.ones(count), np.ones(count, bool))

    def _part_times(self) -> tuple[None, None]:
        return None, None


def known(tmp_path: Path, limits: FidelityLimits) -> Trials:
    progress = RecordedProgress()
    spec = spec_of(tmp_path, limits=limits, held_out=400)
    return Known(build_model(SMALL, progress), exporters()["onnx"], spec, progress)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(0.2, ()), (0.05, ("d",)), (0.03, ("c", "d")), (0.0225, ("b", "c", "d")), (0.005, None)],
)
def test_the_fewest_parts_are_kept(
    limit: float, kept: tuple[str, ...] | None, tmp_path: Path
) -> None:
    choice, chosen = known(tmp_path, FidelityLimits(max_error=limit)).choose()
    assert chosen == kept
    assert choice.held is (kept is not None)
    last = [one for one in choice.tried if one.over == "held out"]
    assert [one.holds for one in last] == ([] if kept is None else [True])
    assert all(one.images == 400 for one in last)


def test_too_few_images_cannot_tell(tmp_path: Path) -> None:
    trials = trials_of(spec_of(tmp_path, limits=FidelityLimits(min_agreement_percent=99)))
    with pytest.raises(StmdeployError, match=r"6 images held out cannot show .* it takes 368") as e:
        trials.choose()
    assert e.value.code is ExitCode.CANNOT_TELL


def test_no_image_does_two_things(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", slice(0, 60), side=32)
    spec = spec_of(tmp_path, data=DataSpec(folder, labelled=True), held_out=20)
    images = trials_of(spec).images
    assert (len(images.calibrating), len(images.choosing), len(images.held_out)) == (4, 6, 20)
    assert images.held_out_labels is not None and len(images.held_out_labels) == 20
    every = np.concatenate((images.calibrating, images.choosing, images.held_out))
    assert len(np.unique(every.reshape(30, -1), axis=0)) == 30
    other = trials_of(spec_of(tmp_path, data=spec.data, held_out=20, seed=1)).images
    assert not np.array_equal(other.held_out, images.held_out)
    few = DataSpec(folder, limit=7, labelled=False)
    with pytest.raises(StmdeployError, match="too few to part"):
        _ = trials_of(spec_of(tmp_path, data=few)).images


def test_what_cannot_be_tried(tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match="needs labelled images"):
        spec_of(tmp_path, limits=FidelityLimits(max_top1_drop_percent=1))
    with pytest.raises(StmdeployError, match="fp32 is no low precision"):
        TrialSpec(ExportSpec(SMALL, "onnx", tmp_path), tmp_path, None)
    torch = TrialSpec(ExportSpec(SMALL, "torch", tmp_path, "fp16"), tmp_path, None)
    progress = RecordedProgress()
    with pytest.raises(StmdeployError, match="'torch' keeps no parts"):
        Trials(build_model(SMALL, progress), exporters()["torch"], torch, progress)
