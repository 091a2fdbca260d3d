"""Who races: settings of each runtime that users would have to know of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.tuning import TuneSpec
from stmdeploy.tuning.candidates import usual, variants


@pytest.mark.parametrize(
    ("runtime", "known"),
    [
        ("onnxruntime", {"spinning", "flush_denormals", "graph_optimization", "inter_op_threads"}),
        ("openvino", {"hint"}),
        ("torch", {"channels_last", "flush_denormals"}),
        ("torch-compile", {"channels_last", "flush_denormals"}),
        ("aotinductor", {"flush_denormals"}),
    ],
)
def test_settings_of_a_runtime(runtime: str, known: set[str], tmp_path: Path) -> None:
    run = RunSpec("onnxruntime", 1, 2)
    spec = TuneSpec(ModelSpec("unified_swin_nano"), (run,), tmp_path, threads=(2, 1))
    parent = replace(usual(spec), run=replace(run, runtime=runtime))
    found = list(variants(spec, parent))
    assert {name for one in found for name in one.settings} == known
    assert {one.parent for one in found} == {parent.name}
    assert [one.run.threads for one in found if not one.settings] == [1]
    assert len({one.name for one in found}) == len(found)
