"""All that only a GPU can show; `make test-gpu` runs it and ends in a summary to paste."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stmdeploy.cli.main import main
from stmdeploy.contracts import Silent
from stmdeploy.engines import built_engine
from stmdeploy.errors import StmdeployError
from stmdeploy.hardware import installed_gpus
from stmdeploy.jobs import MeasureJob, PrepareJob, run_job, worker_settings
from stmdeploy.measure.conditions import read_conditions
from stmdeploy.preparing import out_of_memory
from stmdeploy.processors import profile_of
from stmdeploy.registry import exporter_for_runtime
from stmdeploy.results.row import ProcessRun
from stmdeploy.spec import EngineSpec, ExportSpec, ModelSpec, RunSettings, RunSpec, SamplingSpec

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
Tell = Callable[[str], None]

STMS = ("halo", "pvt", "swin", "convnext", "dcn_v3")
#: Runtime, provider, precision, whether a graph is replayed.
RUNS = [
    ("onnxruntime", "cuda", "fp32", False),
    ("onnxruntime", "cuda", "fp16", False),
    ("onnxruntime", "cuda", "fp16", True),
    ("onnxruntime", "tensorrt", "fp16", False),
    ("tensorrt", "", "fp32", False),
    ("tensorrt", "", "fp16", False),
    ("tensorrt", "", "fp16", True),
    ("tensorrt-rtx", "", "fp16", False),
    ("torch", "", "fp32", False),
    ("torch", "", "fp16", True),
    ("torch-compile", "", "fp16", False),
]
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}


def _run(runtime: str, provider: str, precision: str, graph: bool, batch: int = 1) -> RunSpec:
    gpu = installed_gpus()[0]
    settings = RunSettings(provider=provider, cuda_graph=graph)
    return RunSpec(
        runtime, batch, 2, "cuda", gpu.uuid, gpu.name, precision=precision, settings=settings
    )


def _exported(folder: Path, model: ModelSpec, run: RunSpec) -> Path:
    """The artifact of a run, or a skip where its runtime is not installed."""
    try:
        target = exporter_for_runtime(run.runtime).target
    except StmdeployError as error:
        pytest.skip(str(error))
    # What suits the CPU are forms measured there; a GPU gets the model as it is.
    form = "reference" if target in ("onnx", "torch") else None
    spec = ExportSpec(model, target, folder, run.precision, form, engine=EngineSpec((1, 2, 8)))
    prepared = run_job(PrepareJob(model=model, exports=(spec,)), {}, 1800, Silent()).prepared
    assert prepared is not None
    (artifact,) = prepared.artifacts
    assert artifact.path is not None, artifact.failure
    return artifact.path


def _measured(path: Path, model: ModelSpec, run: RunSpec) -> ProcessRun:
    job = MeasureJob(
        artifact=path, model=model, run=run, sampling=SamplingSpec(budget_s=2.0, processes=1)
    )
    answer = run_job(job, worker_settings(run), 1200, Silent())
    if "this onnxruntime has no" in answer.failure:
        pytest.skip(answer.failure)
    assert answer.process is not None, answer.failure
    return answer.process


@pytest.mark.parametrize("stm", STMS)
@pytest.mark.parametrize(("runtime", "provider", "precision", "graph"), RUNS)
def test_outputs_are_the_models(
    tmp_path: Path, stm: str, runtime: str, provider: str, precision: str, graph: bool
) -> None:
    """Against the module in float32 on the CPU, at batches 1 and 3."""
    import torch

    from stmdeploy.backbones.source import build_module

    model = ModelSpec(f"unified_{stm}_micro", (64, 64))
    path = _exported(tmp_path, model, _run(runtime, provider, precision, graph))
    for batch in (1, 3):
        run = _run(runtime, provider, precision, graph, batch)
        images = np.random.default_rng(batch).standard_normal((batch, 3, 64, 64), np.float32)
        with torch.inference_mode():
            expected = build_module(model)(torch.from_numpy(images)).numpy()
        try:
            runner = exporter_for_runtime(runtime).load(path, run, lambda: build_module(model))
        except StmdeployError as error:
            pytest.skip(str(error))
        runner.prepare(np.zeros_like(images))
        runner.feed(images)
        runner.run()
        distance = np.linalg.norm(runner.output() - expected) / np.linalg.norm(expected)
        assert distance < TOLERANCE[precision]


@pytest.mark.parametrize(("runtime", "provider", "precision", "graph"), RUNS)
def test_a_process_is_measured(
    tmp_path: Path, tell: Tell, runtime: str, provider: str, precision: str, graph: bool
) -> None:
    """By the host and by the device, which cannot take longer than the host sees."""
    model = ModelSpec("unified_convnext_tiny")
    run = _run(runtime, provider, precision, graph, batch=8)
    process = _measured(_exported(tmp_path, model, run), model, run)
    latency = float(np.median(process.samples_ms))
    assert latency > 0
    on_device = float(np.median(process.device_ms)) if process.device_ms else None
    waits_always = runtime == "onnxruntime" and graph
    assert (on_device is None) == waits_always
    assert on_device is None or 0 < on_device <= 1.05 * latency
    assert process.before.gpu_sm_mhz and process.after.gpu_temperature_c
    assert process.before.gpu_processes == 1, "nobody else is on the GPU"
    tell(
        f"tiny convnext, batch 8: {latency:.3f} ms by the host, "
        f"{on_device if on_device is None else round(on_device, 3)} by the device, "
        f"{process.energy_source or 'no'} energy, {process.runtime_facts.get('provider')}"
    )


@pytest.mark.parametrize(("runtime", "provider", "precision", "graph"), RUNS)
def test_out_of_memory_is_a_failed_row(
    tmp_path: Path, tell: Tell, runtime: str, provider: str, precision: str, graph: bool
) -> None:
    """And it is known for what it is, in each runtime's own words."""
    model = ModelSpec("unified_swin_micro", (256, 256))
    run = _run(runtime, provider, precision, graph)
    path = _exported(tmp_path, model, run)
    if runtime.startswith("tensorrt"):
        pytest.skip("an engine refuses a batch that it was not built for")
    job = MeasureJob(
        artifact=path,
        model=model,
        run=replace(run, batch=20_000),
        sampling=SamplingSpec(budget_s=1.0, processes=1),
    )
    answer = run_job(job, worker_settings(run), 600, Silent())
    assert answer.process is None
    tell(answer.failure[:200])
    assert out_of_memory(answer.failure)


def test_an_engine_is_built_where_it_runs(tmp_path: Path, tell: Tell) -> None:
    """From its source, compared with it on this GPU, and found again."""
    for target in ("tensorrt", "tensorrt-rtx"):
        model = ModelSpec("unified_dcn_v3_micro", (64, 64))
        run = _run(target, "", "fp16", False)
        try:
            exporter_for_runtime(target)
        except StmdeployError:
            continue
        spec = ExportSpec(model, target, tmp_path / target, "fp16", source_only=True)
        prepared = run_job(PrepareJob(model=model, exports=(spec,)), {}, 900, Silent()).prepared
        assert prepared is not None
        source = prepared.artifacts[0].path
        assert source is not None, prepared.artifacts[0].failure
        folder = tmp_path / "engines"
        made = built_engine(source, run, EngineSpec(), folder, Silent())
        assert made.manifest.state == "verified"
        tell(f"{target}: {made.manifest.verification.runtime}, "
             f"{made.manifest.verification.relative_l2_error:.1e} relative L2 at most")  # fmt: skip
        assert built_engine(source, run, EngineSpec(), folder, Silent()) == made


def test_the_gpu_tells_its_state(tell: Tell) -> None:
    conditions = read_conditions(installed_gpus()[0].uuid)
    told = {k: v for k, v in conditions.model_dump().items() if k.startswith("gpu_")}
    tell(", ".join(f"{name} {value}" for name, value in told.items()))
    assert told["gpu_sm_mhz"] and told["gpu_memory_used_mib"] is not None


def test_two_requests_run_at_once(tmp_path: Path) -> None:
    for runtime in ("onnxruntime", "torch"):
        model = ModelSpec("unified_convnext_micro", (64, 64))
        run = replace(_run(runtime, "", "fp32", False), in_flight=2)
        process = _measured(_exported(tmp_path, model, run), model, run)
        assert len(process.samples_ms) > 10


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`profile --gpu NAME` on whatever GPU this is, with its bound."""
    profile = profile_of(installed_gpus()[0].name)
    if profile is None:
        pytest.skip(f"no profile fits {installed_gpus()[0].name}: add one")
    words = ["profile", "--gpu", profile.name, "--stm", "convnext", "--scale", "micro",
             "--batch", "8", "--budget-s", "2", "--out", str(tmp_path), "--json"]  # fmt: skip
    assert main(words) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["device_name"] == installed_gpus()[0].name
    assert row["latency_on_device_ms_p50"] <= 1.05 * row["latency_ms_p50"]
    assert 0 < row["efficiency"] <= 1


def test_a_cluster_of_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray finds the GPU and its type by itself."""
    pytest.importorskip("ray")
    profile = profile_of(installed_gpus()[0].name)
    if profile is None:
        pytest.skip(f"no profile fits {installed_gpus()[0].name}: add one")
    words = ["profile", "--gpu", profile.name, "--cluster", "local", "--stm", "convnext",
             "--scale", "micro", "--batch", "1", "--budget-s", "1", "--out", str(tmp_path),
             "--json"]  # fmt: skip
    assert main(words) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["device_name"] == installed_gpus()[0].name and row["node"] == profile.name
