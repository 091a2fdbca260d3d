"""All that only a GPU can show; `make test-gpu` runs it and ends in a summary to paste."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stmdeploy.cli.main import main
from stmdeploy.errors import FailureKind, StmdeployError
from stmdeploy.exporters.tensorrt_runner import gpu_capability
from stmdeploy.hardware.clocks import locked_clocks
from stmdeploy.hardware.conditions import read_conditions
from stmdeploy.hardware.environment import environment
from stmdeploy.hardware.gpus import installed_gpus
from stmdeploy.hardware.nvml import throttled_ns
from stmdeploy.hardware.profiles import profile_of
from stmdeploy.plugins.progress import Silent
from stmdeploy.plugins.registry import exporter_for_runtime
from stmdeploy.schema.artifact import read_artifact
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.spec.export import EngineSpec, ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSettings, RunSpec, SamplingSpec
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.sweeps.exports import path_of
from stmdeploy.sweeps.process import ProcessLimits, Task, one_process
from stmdeploy.worker.client import run_job, worker_settings
from stmdeploy.worker.exports import export_model
from stmdeploy.worker.jobs.engine import EngineJob

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
Tell = Callable[[str], None]

#: The mixers, at the smallest image that each takes.
MODELS = {
    stm: ModelSpec(f"unified_{stm}_micro", (size, size))
    for stm, size in (("halo", 224), ("pvt", 64), ("swin", 224), ("convnext", 64), ("dcn_v3", 64))
}
#: For what has to be some model.
TINY, MICRO = ModelSpec("unified_convnext_tiny"), MODELS["convnext"]
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
#: What is left of the GPU where its memory is to run out: enough for CUDA itself.
_LEFT_BYTES = 900 * 2**20


def _run(runtime: str, provider: str, precision: str, graph: bool, batch: int = 1) -> RunSpec:
    gpu = installed_gpus()[0]
    settings = RunSettings(provider=provider, cuda_graph=graph)
    return RunSpec(
        runtime, batch, 2, "cuda", gpu.uuid, gpu.name, precision=precision, settings=settings
    )


def _skip_what_is_not_here(run: RunSpec) -> None:
    """A runtime, a provider or a compiler that is not installed, or a GPU it does not know."""
    try:
        exporter_for_runtime(run.runtime)
    except StmdeployError as error:
        pytest.skip(str(error))
    if run.runtime == "torch-compile" and not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler, which torch.compile needs")
    if run.runtime == "tensorrt-rtx":
        import tensorrt_rtx

        capability = f"SM{gpu_capability().replace('.', '')}"
        if not hasattr(tensorrt_rtx.ComputeCapability, capability):
            pytest.skip(f"this TensorRT-RTX does not build for {capability}")


def _exported(folder: Path, model: ModelSpec, run: RunSpec) -> Path:
    """The artifact of a run."""
    _skip_what_is_not_here(run)
    target = exporter_for_runtime(run.runtime).target.name
    spec = ExportSpec(model, target, folder, run.precision, engine=EngineSpec((1, 2, 8)),
                      provider=run.gpu_provider)  # fmt: skip
    (artifact,) = export_model(model, (spec,), 1800, Silent(), run.gpu_uuid).artifacts
    return path_of(artifact)


def _not_installed(failure: str) -> bool:
    """Whether a provider is missing, or a library of it that ONNX Runtime loads by itself."""
    words = ("this onnxruntime has no", "TensorrtExecutionProvider", "libnvinfer")
    return any(word in failure for word in words)


def _one_process(path: Path, model: ModelSpec, run: RunSpec, sampling: SamplingSpec) -> ProcessRun:
    limits = ProcessLimits(sampling, 1200.0, None)
    return one_process(Task(RowSpec(model, run), path, limits, environment(), Path()), Silent())


def _measured(path: Path, model: ModelSpec, run: RunSpec) -> ProcessRun:
    try:
        return _one_process(path, model, run, SamplingSpec(budget_s=2.0, processes=1))
    except StmdeployError as error:
        if _not_installed(error.message):
            pytest.skip(error.message)
        raise


def _distances(path: Path, model: ModelSpec, run: RunSpec) -> list[float]:
    """Outputs against the module in float32 on the CPU, at batches 1 and 3: relative L2."""
    import torch

    from stmdeploy.backbones.source import build_module

    found = []
    for batch in (1, 3):
        size = (batch, 3, *model.image_size)
        images = np.random.default_rng(batch).standard_normal(size).astype(np.float32)
        with torch.inference_mode():
            expected = build_module(model)(torch.from_numpy(images)).numpy()
        at_batch = replace(run, batch=batch)
        runner = exporter_for_runtime(run.runtime).load(path, at_batch, lambda: build_module(model))
        runner.prepare(np.zeros_like(images))
        runner.feed(images)
        runner.run()
        distance = np.linalg.norm(runner.outputs()[0] - expected) / np.linalg.norm(expected)
        found.append(float(distance))
    return found


def _apart(function: Callable[..., Any], *arguments: object) -> Any:
    """In a process of its own, so that this one never holds the GPU."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result(timeout=1800)


@pytest.mark.parametrize("stm", MODELS)
@pytest.mark.parametrize(("runtime", "provider", "precision", "graph"), RUNS)
def test_outputs_are_the_models(
    tmp_path: Path, stm: str, runtime: str, provider: str, precision: str, graph: bool
) -> None:
    run, model = _run(runtime, provider, precision, graph), MODELS[stm]
    path = _exported(tmp_path, model, run)
    try:
        distances = _apart(_distances, path, model, run)
    except Exception as error:
        if _not_installed(str(error)):
            pytest.skip(str(error)[:300])
        raise
    assert max(distances) < TOLERANCE[precision]


@pytest.mark.parametrize(("runtime", "provider", "precision", "graph"), RUNS)
def test_a_process_is_measured(
    tmp_path: Path, tell: Tell, runtime: str, provider: str, precision: str, graph: bool
) -> None:
    """By the host and by the device, which cannot take longer than the host sees."""
    run = _run(runtime, provider, precision, graph, batch=8)
    process = _measured(_exported(tmp_path, TINY, run), TINY, run)
    latency = float(np.median(process.samples_ms))
    assert latency > 0
    on_device = float(np.median(process.device_ms)) if process.device_ms else None
    waits_always = runtime == "onnxruntime" and graph
    assert (on_device is None) == waits_always
    assert on_device is None or 0 < on_device <= 1.05 * latency
    assert process.before.gpu_sm_mhz and process.after.gpu_temperature_c
    assert (process.before.gpu_processes or 0) <= 1, "somebody else is on the GPU"
    tell(
        f"tiny convnext, batch 8: {latency:.3f} ms by the host, "
        f"{on_device if on_device is None else round(on_device, 3)} by the device, "
        f"{process.energy_source or 'no'} energy, {process.runtime_facts.get('provider')}"
    )


def _hold_memory(ready: Any, done: Any) -> None:
    """Takes nearly all of the GPU's memory until told that it is done with."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(0, free - _LEFT_BYTES), dtype=torch.uint8, device="cuda")
    ready.set()
    done.wait()
    del held


@pytest.fixture
def a_full_gpu() -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold_memory, args=(ready, done))
    holder.start()
    assert ready.wait(120)
    yield
    done.set()
    holder.join(60)


@pytest.mark.usefixtures("a_full_gpu")
@pytest.mark.parametrize(("runtime", "provider", "precision", "graph"), RUNS)
def test_out_of_memory_is_a_failed_row(
    tmp_path: Path, tell: Tell, runtime: str, provider: str, precision: str, graph: bool
) -> None:
    """And it is known for what it is, in each runtime's own words."""
    if runtime.startswith("tensorrt") or provider == "tensorrt":
        pytest.skip("an engine would be built with that little memory")
    run = _run(runtime, provider, precision, graph, batch=512)
    model = ModelSpec("unified_convnext_micro", (256, 256))
    path = _exported(tmp_path, model, run)
    with pytest.raises(StmdeployError) as failed:
        _one_process(path, model, run, SamplingSpec(budget_s=1.0, processes=1))
    if _not_installed(failed.value.message):
        pytest.skip(failed.value.message)
    tell(failed.value.message[:200])
    assert failed.value.kind is FailureKind.OUT_OF_MEMORY, "KILLED would be the host's memory"


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_is_built_where_it_runs(tmp_path: Path, tell: Tell, target: str) -> None:
    """From its source, compared with it on this GPU, and found again."""
    run, model = _run(target, "", "fp16", False), MODELS["dcn_v3"]
    _skip_what_is_not_here(run)
    spec = ExportSpec(model, target, tmp_path / target, "fp16", source_only=True)
    source = path_of(export_model(model, (spec,), 900, Silent(), run.gpu_uuid).artifacts[0])
    folder = tmp_path / "engines"
    job = EngineJob(source=source, run=run, engine=EngineSpec(), folder=folder)
    first, again = (run_job(job, worker_settings(run), 900, Silent()) for _ in range(2))
    manifest = read_artifact(path_of(first)).manifest
    assert manifest.state == "verified"
    tell(f"{manifest.proof.runtime}, {first.relative_l2_error:.1e} relative L2")
    assert again == first, "found, not built"


def test_the_gpu_tells_its_state(tell: Tell) -> None:
    conditions = read_conditions(installed_gpus()[0].uuid)
    told = {k: v for k, v in conditions.model_dump().items() if k.startswith("gpu_")}
    tell(", ".join(f"{name} {value}" for name, value in told.items()))
    assert told["gpu_sm_mhz"] and told["gpu_memory_used_mib"] is not None


def test_an_engine_of_one_batch_is_not_slower_than_one_of_many(tmp_path: Path, tell: Tell) -> None:
    run, model = _run("tensorrt", "", "fp16", True), TINY
    _skip_what_is_not_here(run)
    medians = {}
    for batches in ((1, 1, 1), (1, 32, 32)):
        spec = ExportSpec(model, "tensorrt", tmp_path, "fp16", engine=EngineSpec(batches))
        (made,) = export_model(model, (spec,), 1800, Silent(), run.gpu_uuid).artifacts
        medians[batches] = float(np.median(_measured(path_of(made), model, run).samples_ms))
    tell(f"tiny convnext, batch 1, ms by engines for 1 and for 1 to 32: {medians}")
    assert medians[1, 1, 1] <= 1.05 * medians[1, 32, 32]


@pytest.mark.parametrize("stm", MODELS)
def test_the_form_for_gpus_is_not_slower_than_the_reference(
    tmp_path: Path, tell: Tell, stm: str
) -> None:
    """As TensorRT's engines, which the form is made for."""
    run, model = _run("tensorrt", "", "fp16", True), MODELS[stm]
    _skip_what_is_not_here(run)
    medians = {}
    for form in ("reference", "gpu"):
        spec = ExportSpec(model, "tensorrt", tmp_path / form, "fp16", form,
                          engine=EngineSpec((1, 1, 1)))  # fmt: skip
        (made,) = export_model(model, (spec,), 1800, Silent(), run.gpu_uuid).artifacts
        medians[form] = float(np.median(_measured(path_of(made), model, run).samples_ms))
    tell(f"{stm} micro, TensorRT fp16, batch 1, ms: {medians}")
    assert medians["gpu"] <= 1.05 * medians["reference"]


@pytest.mark.parametrize("stm", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_node_leaves_the_gpu(tmp_path: Path, stm: str, precision: str) -> None:
    """As the table of kernels says."""
    run, model = _run("onnxruntime", "cuda", precision, False), MODELS[stm]
    process = _measured(_exported(tmp_path, model, run), model, run)
    assert process.runtime_facts["nodes_elsewhere"] == "none"


def test_a_graph_spares_the_host(tmp_path: Path, tell: Tell) -> None:
    """Enqueuing one graph takes the host less than enqueuing every kernel."""
    enqueue = {}
    for graph in (False, True):
        run = _run("torch", "", "fp16", graph)
        process = _measured(_exported(tmp_path, MICRO, run), MICRO, run)
        assert process.runtime_facts["cuda_graph"] == str(graph).lower()
        enqueue[graph] = float(np.median(process.enqueue_ms))
    tell(f"micro convnext, torch, ms to enqueue without and with a graph: {enqueue}")
    assert enqueue[True] < enqueue[False]


def test_inferences_ahead_are_more_per_second(tmp_path: Path, tell: Tell) -> None:
    run = _run("torch", "", "fp16", True)
    process = _measured(_exported(tmp_path, MICRO, run), MICRO, run)
    ahead = process.burst_runs / process.burst_s
    waiting = 1e3 / float(np.mean(process.samples_ms))
    tell(f"micro convnext, torch, inferences/s: {ahead:.0f} ahead, {waiting:.0f} one by one")
    assert ahead >= 0.98 * waiting


def test_a_cold_cache_is_not_faster(tmp_path: Path, tell: Tell) -> None:
    run = _run("torch", "", "fp16", True)
    path = _exported(tmp_path, MICRO, run)
    cold = replace(run, settings=replace(run.settings, cold_l2=True))
    medians = [float(np.median(_measured(path, MICRO, one).samples_ms)) for one in (run, cold)]
    tell(f"micro convnext, torch, ms with a warm and a cold L2: {medians}")
    assert medians[1] >= 0.98 * medians[0]


def test_clocks_are_locked_and_given_back(tell: Tell) -> None:
    uuid = installed_gpus()[0].uuid
    before = read_conditions(uuid)
    mhz = int((before.gpu_max_sm_mhz or 1000) * 0.7)
    try:
        with locked_clocks(uuid, mhz):
            held = _apart(_clock_while_busy, uuid)
    except StmdeployError as error:
        pytest.skip(error.message)
    tell(f"locked at {mhz} MHz, ran at {held} MHz")
    assert held is not None and held <= 1.03 * mhz


def _clock_while_busy(uuid: str) -> float | None:
    import torch

    a = torch.rand(4096, 4096, device="cuda")
    for _ in range(200):
        a @ a
    clock = read_conditions(uuid).gpu_sm_mhz
    torch.cuda.synchronize()
    return clock


def test_the_counters_of_throttling_are_there(tell: Tell) -> None:
    counted = throttled_ns(installed_gpus()[0].uuid)
    tell(f"nanoseconds held back so far: {counted}")
    assert counted, "this driver does not count; turns cannot be left out"


def test_the_memory_of_the_process_is_read(tmp_path: Path, tell: Tell) -> None:
    run = _run("torch", "", "fp16", False)
    process = _measured(_exported(tmp_path, MICRO, run), MICRO, run)
    if process.device_memory_peak_mib is None:
        pytest.skip("NVML does not see this process, as in a container")
    tell(f"micro convnext, torch: {process.device_memory_peak_mib:.0f} MiB on the GPU")
    assert process.device_memory_peak_mib > 50


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_kernel_of_dcn_is_the_mixer_on_the_gpu(dtype: str) -> None:
    """Every size a backbone has, against plain PyTorch in float64."""
    worst = _apart(_kernel_distance, dtype)
    assert worst < {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]


def _kernel_distance(dtype: str) -> float:
    import torch

    from stmdeploy.backbones.lowering.dcn_kernel import dcn_sample
    from tests.backbones.lowering.test_dcn_kernel import expected, inputs

    kind, worst = getattr(torch, dtype), 0.0
    for n, h, w, heads, channels in ((1, 56, 56, 2, 16), (3, 14, 14, 8, 16), (2, 25, 42, 20, 16)):
        value, offsets, logits = inputs(n, h, w, heads, channels, kind, h)
        want = expected(value, offsets, logits, heads)
        got = dcn_sample(value.cuda(), offsets.cuda(), logits.cuda(), heads).cpu().double()
        worst = max(worst, float((got - want).norm() / want.norm()))
    return worst


def test_the_operator_of_dcn_passes_opcheck_on_the_gpu() -> None:
    assert _apart(_opcheck) == "checked"


def _opcheck() -> str:
    import torch

    from stmdeploy.backbones.lowering.dcn_kernel import dcn_sample
    from tests.backbones.lowering.test_dcn_kernel import inputs

    tensors = [one.cuda() for one in inputs(1, 8, 8, 2, 16, torch.float32, 0)]
    torch.library.opcheck(dcn_sample, (*tensors, 2))
    return "checked"


def test_the_kernel_of_dcn_is_faster_than_its_parts(tell: Tell) -> None:
    fused, plain = _apart(_dcn_times)
    tell(f"DCNv3 56x56x128, fp16, ms: Triton {fused:.3f}, plain PyTorch {plain:.3f}")
    assert fused < plain


def _event() -> Any:
    import torch

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _dcn_times() -> tuple[float, float]:
    import torch

    from stmdeploy.backbones.lowering.dcn_kernel import dcn_sample
    from stmdeploy.backbones.mixers.dcn import sample_plainly
    from tests.backbones.lowering.test_dcn_kernel import inputs

    n, h, w, heads = 32, 56, 56, 8
    made = inputs(n, h, w, heads, 16, torch.float16, 0)
    value, offsets, logits = (one.cuda() for one in made)

    def plainly() -> object:
        shape = (n, h * w, heads, 9)
        return sample_plainly(value, offsets.reshape(*shape, 2), logits.reshape(shape))

    found = []
    for once in (lambda: dcn_sample(value, offsets, logits, heads), plainly):
        times = []
        for _ in range(30):
            begin, end = _event(), _event()
            begin.record()
            once()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
        found.append(float(np.median(times[5:])))
    return found[0], found[1]


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_low_precisions_as_engines(tmp_path: Path, tell: Tell, precision: str) -> None:
    """An engine of DCNv3, whose positions stay in float32; verified on this GPU."""
    run, model = _run("tensorrt", "", precision, False), MODELS["dcn_v3"]
    _skip_what_is_not_here(run)
    spec = ExportSpec(model, "tensorrt", tmp_path, precision, engine=EngineSpec((1, 1, 1)))
    (made,) = export_model(model, (spec,), 1800, Silent(), run.gpu_uuid).artifacts
    manifest = read_artifact(path_of(made)).manifest
    tell(f"dcn micro, TensorRT {precision}: {manifest.proof.relative_l2_error:.1e}")
    assert manifest.state == "verified"


def test_two_requests_run_at_once(tmp_path: Path) -> None:
    for runtime in ("onnxruntime", "torch"):
        run = replace(_run(runtime, "", "fp32", False), in_flight=2)
        process = _measured(_exported(tmp_path, MICRO, run), MICRO, run)
        assert len(process.samples_ms) > 10


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`profile --gpu NAME` on whatever GPU this is, with its bound."""
    profile = profile_of(installed_gpus()[0].name)
    if profile is None:
        pytest.skip(f"no profile fits {installed_gpus()[0].name}: add one")
    words = ["profile", "--gpu", profile.name, "--stm", "convnext", "--scale", "micro",
             "--batch", "8", "--budget-s", "2", "--out", str(tmp_path), "--json"]  # fmt: skip
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["precision"] for row in rows} == set(profile.precisions)
    for row in rows:
        assert row["device_name"] == installed_gpus()[0].name
        if row["latency_on_device_ms_p50"] is not None:
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
