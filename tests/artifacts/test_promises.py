"""What is promised, and that it is kept: every mixer, target and precision at the smallest size."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet

from stmdeploy import StmdeployError
from stmdeploy.artifacts import promises as table
from stmdeploy.artifacts.promises import (
    Promise,
    check_precision,
    default_form,
    forms_for,
    promise,
    promises,
    why_not,
)
from stmdeploy.backbones.catalogue import list_backbones, resolve
from stmdeploy.backbones.lowering import forms_of
from stmdeploy.plugins.registry import exporters
from stmdeploy.spec.export import LOWERINGS, PRECISIONS, EngineSpec
from stmdeploy.spec.model import CLASSIFICATION, DEFAULT_SIZES, DETECTION, TASKS, ModelSpec
from tests import matrix

PAGE = Path(__file__).parents[2] / "docs" / "targets.md"
EVERYTHING = list(promises())
AS_ONNX = ("onnx", "openvino", "tensorrt-rtx")
HALO, DCN = resolve("halo", "micro"), resolve("dcn", "micro")


def test_every_combination_has_one_claim() -> None:
    kinds = len(exporters()) * len(PRECISIONS) * len(LOWERINGS) * len(TASKS)
    assert len(EVERYTHING) == len(list_backbones()) * kinds
    assert len({(*matrix.key(p).split(), p.task) for p in EVERYTHING}) == len(EVERYTHING)
    assert {p.claim for p in EVERYTHING} == {"yes", "no", "untried"}


def test_every_no_says_why_in_the_table() -> None:
    """And not in the words that stand in for an exporter from elsewhere."""
    for p in EVERYTHING:
        assert bool(p.why) == (p.claim != "yes")
        assert not p.why.startswith(f"target {p.target} "), p


def test_nothing_is_promised_that_cannot_be_written() -> None:
    for p in EVERYTHING:
        if p.claim != "no":
            exporter = exporters()[p.target]
            assert p.precision in exporter.target.tolerances
            assert p.lowering in forms_for(resolve(p.model), exporter, p.precision)
            assert p.lowering in forms_of(resolve(p.model))


def test_what_can_be_written_is_promised_in_some_form_of_every_backbone() -> None:
    kept = {(p.model, p.target, p.precision, p.task) for p in EVERYTHING if p.claim != "no"}
    assert kept == {
        (name, target, precision, task)
        for name in list_backbones()
        for target, exporter in exporters().items()
        for precision in exporter.target.tolerances
        for task in TASKS
        if task == CLASSIFICATION or resolve(name).detection
    }  # fmt: skip


def test_the_documentation_promises_the_same() -> None:
    """Its table of targets and precisions."""
    text = PAGE.read_text("utf-8")
    lines = re.findall(r"^\| `([a-z][a-z-]*)` \| ([\w, -]+) \| `", text, re.MULTILINE)
    promised: dict[str, list[str]] = {}
    for p in EVERYTHING:
        if p.claim != "no" and p.precision not in promised.setdefault(p.target, []):
            promised[p.target].append(p.precision)
    assert {target: words.split(", ") for target, words in lines} == promised


def test_the_default_form_is_the_best_that_works() -> None:
    onnx, openvino = exporters()["onnx"], exporters()["openvino"]
    assert default_form(HALO, onnx, "fp32") == "tokens"
    assert default_form(HALO, onnx, "int8") == "tokens-plain"
    assert default_form(DCN, openvino, "fp16") == "tokens-plain"
    assert default_form(resolve("official_swin", "tiny"), onnx, "fp32") == "reference"
    swin, rtx = resolve("swin", "micro"), exporters()["tensorrt-rtx"]
    assert why_not(swin, rtx, "fp16", "tokens") == ""
    assert why_not(resolve("swin", "tiny"), rtx, "fp16", "tokens") == ""
    assert "DeformConv" in why_not(DCN, openvino, "fp32", "tokens")
    assert why_not(HALO, openvino, "fp32", "tokens") == ""


def test_a_mixer_that_nobody_has_lowered_is_exported_in_the_reference_form() -> None:
    new, onnx = replace(HALO, stm="new", lowered=None), exporters()["onnx"]
    assert default_form(new, onnx, "fp32") == "reference"
    assert promise(new, onnx, "fp32", "reference").claim == "yes"
    found = promise(new, onnx, "fp32", "tokens")
    assert found.claim == "no"
    assert found.why == "nobody has written the form tokens of halo attention yet"


def test_a_target_from_elsewhere_promises_no_more_than_it_writes() -> None:
    """What nobody has tried is what it writes, in the forms that it takes."""
    target = replace(exporters()["onnx"].target, name="mine", tolerances={"fp32": 1e-3})
    mine: Any = SimpleNamespace(target=target, lowerings=("reference",),
                                lowerings_on=lambda _: ("reference",))  # fmt: skip
    assert promise(HALO, mine, "fp32", "reference").claim != "no"
    found = promise(HALO, mine, "int8", "reference")
    assert (found.claim, found.why) == ("no", "target mine does not write int8")
    assert promise(HALO, mine, "fp32", "tokens").claim == "no"


def test_a_precision_that_is_not_there_says_why() -> None:
    with pytest.raises(StmdeployError, match=r"no precision 'bf16': ONNX Runtime's CPU") as error:
        check_precision(exporters()["onnx"], "bf16")
    assert error.value.hint == "choose one of: fp32, fp16, int8, int8-dynamic"


def test_what_a_version_broke_is_a_row_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    onnx, convnext, there = exporters()["onnx"], resolve("convnext", "nano"), version("onnxruntime")

    def broken_by(number: str) -> Promise:
        entry = table._Claim(
            target=("onnx",), stm=("convnext",), lowering=("tokens",),
            versions={"onnxruntime": number}, claim="no", why="its Gelu is wrong",
        )  # fmt: skip
        monkeypatch.setattr(table, "_claims", lambda: (entry, *claims))
        return promise(convnext, onnx, "fp32", "tokens")

    claims = table._claims()
    found = broken_by(there)
    assert (found.claim, found.why) == ("no", f"its Gelu is wrong (with onnxruntime {there})")
    assert default_form(convnext, onnx, "fp32") == "tokens-plain"
    assert promise(HALO, onnx, "fp32", "tokens").claim == "yes"
    assert broken_by("0.1").claim == "yes", "that is of another version"
    assert default_form(convnext, onnx, "fp32") == "tokens"


def _smallest() -> dict[str, list[Promise]]:
    """Of every mixer, target, precision and task the default form; those that are written as ONNX
    in tests of few traces: in floats of 32 and 16 bits, and in what takes a trace of its own."""
    found: dict[str, list[Promise]] = {}
    for kept in (p for task in TASKS for p in matrix.kept_promises(["nano"], task)):
        of = resolve(kept.model), exporters()[kept.target], kept.precision, kept.task
        if kept.lowering == default_form(*of):
            one = matrix.key(kept)
            if kept.target in AS_ONNX:
                one = f"{kept.model} {kept.task} as {'low ' if _is_low(kept) else ''}ONNX"
            found.setdefault(one, []).append(kept)
    return found


def _is_low(kept: Promise) -> bool:
    return kept.precision not in ("fp32", "fp16")


def _marked(kept: list[Promise]) -> ParameterSet:
    """By day the cheapest of either task, but not as ONNX: every trace takes minutes while other
    tests run, and the tests of the exporters have their own. Compiling a backbone ahead of time
    takes a core for 40 s."""
    stm, detection = resolve(kept[0].model).stm, kept[0].task == DETECTION
    at_night = stm not in (("pvt",) if detection else ("pvt", "convnext"))
    at_night |= kept[0].target in ("aotinductor", *AS_ONNX)
    return pytest.param(kept, marks=[pytest.mark.nightly] if at_night else [])


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("stm", ["halo", "pvt", "swin", "convnext", "dcn"])
@pytest.mark.parametrize(
    ("target", "precision"), [("onnx", "fp32"), ("openvino", "fp32"), ("tensorrt-rtx", "fp16")]
)
def test_detection_at_the_size_of_the_published_aps(stm: str, target: str, precision: str) -> None:
    config, exporter = resolve(stm, "micro"), exporters()[target]
    form = default_form(config, exporter, precision, DETECTION)
    kept = promise(config, exporter, precision, form, DETECTION)
    assert kept.claim == "yes"
    model = ModelSpec(config.name, DEFAULT_SIZES[DETECTION], task=DETECTION)
    result = matrix.keep(kept, model, EngineSpec(batch=(1, 1, 2)))
    assert (result["failure"], result["warnings"]) == ("", [])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "promised", list(map(_marked, _smallest().values())), ids=list(_smallest())
)
def test_every_promise_is_kept_at_the_smallest_size(
    promised: list[Promise], subtests: pytest.Subtests
) -> None:
    """At night micro and tiny follow, in every form: `make nightly`."""
    for kept in promised:
        with subtests.test(matrix.key(kept)):
            if kept.task == DETECTION:
                model = ModelSpec(kept.model, (64, 96), task=DETECTION)
            else:
                side = 224 if resolve(kept.model).stm in ("halo", "swin") else 64
                model = ModelSpec(kept.model, (side, side), matrix.FEW_CLASSES)
            result = matrix.keep(kept, model, matrix.SMALL_ENGINE)
            assert result["failure"] == ""
            assert result["warnings"] == []
