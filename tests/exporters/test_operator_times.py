"""Where the time goes: every runtime's operators, mapped back to the parts of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.report.layers import chrome_trace, layers_document, layers_table, mean_ms
from stmdeploy.schema.measurement import OperatorTime
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.explanation import layers_of
from tests.fakes import RecordedProgress

SMALL = ModelSpec("unified_convnext_nano", image_size=(64, 64), num_classes=10)
STAGES = {f"stage {n} {kind}" for n in range(1, 5) for kind in ("mixer", "mlp", "norm")}
PARTS = STAGES | {f"stage {n} downsample" for n in range(2, 5)} | {"stem", "head"}


@pytest.mark.slow
def test_every_runtime_tells_the_same_parts() -> None:
    runtimes = ("onnxruntime", "openvino", "torch")
    spec = SweepSpec((SMALL,), tuple(RunSpec(name, 2, 1) for name in runtimes))
    found = layers_of(spec, RecordedProgress(), repeats=3)
    assert [times.row.run.runtime for times in found] == list(runtimes)
    for times in found:
        assert len(times.inferences) == 3
        parts = mean_ms(times.inferences, "part")
        assert parts.keys() >= PARTS - {"stage 1 norm"}, times.row.run.runtime
        assert parts.get("other", 0.0) < 0.1 * sum(parts.values())
        for inference in times.inferences:
            starts = [time.start_ms for time in inference]
            assert starts == sorted(starts)
            assert all(time.duration_ms >= 0 for time in inference)


@pytest.mark.slow
def test_compiled_code_does_not_tell() -> None:
    spec = SweepSpec((SMALL,), (RunSpec("torch-compile", 1, 1),))
    with pytest.raises(StmdeployError, match="does not report where its time goes"):
        layers_of(spec, RecordedProgress(), repeats=1)


def time(part: str, operator: str, start_ms: float, duration_ms: float) -> OperatorTime:
    return OperatorTime(
        name=f"{operator}_0", operator=operator, part=part, start_ms=start_ms,
        duration_ms=duration_ms,
    )  # fmt: skip


INFERENCES = [
    [time("stage 1 mixer", "Conv", 0.0, 2.0), time("stage 2 mlp", "Gemm", 2.0, 6.0)],
    [time("stage 1 mixer", "Conv", 0.0, 4.0), time("stage 2 mlp", "Gemm", 4.0, 8.0)],
]


def test_means_of_known_times() -> None:
    document = layers_document(INFERENCES)
    assert document["operators_ms"] == 10.0
    assert document["mixer_share_percent"] == 30.0
    assert document["kinds_ms"] == {"mlp": 7.0, "mixer": 3.0}
    assert document["parts_ms"] == {"stage 2 mlp": 7.0, "stage 1 mixer": 3.0}


def test_the_table_says_what_share_the_mixer_has() -> None:
    table = layers_table("net", INFERENCES)
    assert table.notes[0] == "mlp 70 %, mixer 30 %."
    assert ("operator", "Conv", "3.00", "30.0") in table.cells


def test_the_trace_is_of_an_inference(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text(chrome_trace("net", INFERENCES))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert [event["name"] for event in complete] == ["Conv", "Gemm"]
    assert complete[1]["ts"] == complete[0]["ts"] + complete[0]["dur"]
    assert complete[0]["args"]["part"] == "stage 1 mixer"
