"""Shared fixtures. Under xdist every worker, and what it starts, computes on one processor."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from stmdeploy.backbones.catalogue import CATALOG_VARIABLE
from stmdeploy.exporters import onnx_graph
from stmdeploy.schema.hardware import Conditions, Environment
from stmdeploy.schema.measurement import Measurement, ProcessRun
from stmdeploy.schema.row import Row
from tests.fakes import TEST_ENVIRONMENT, RecordedProgress, a_process
from tests.shared_exports import share_exports
from tests.shared_traces import SharedTraces
from tests.sharing import SharedArtifacts

DATA = Path(__file__).parent / "data"
pytest_plugins = ["tests.hostile.good"]

# Properties are tried on the same examples every time, however long that takes.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")
#: The scale `nano`, for workers too.
os.environ[CATALOG_VARIABLE] = str(DATA / "catalog.toml")
# As in a worker: traces make millions of objects that stay.
gc.set_threshold(100_000)
# A process that OpenMP has threads in cannot be forked, as the hostile tests do.
torch.set_num_threads(1)
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    if hasattr(os, "sched_setaffinity"):
        # Inherited by workers, which inherit few variables; so an export has one thread, too.
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[int(worker.removeprefix("gw")) % len(processors)]})
    # Measurements of one user wait for each other; those of two test workers need not.
    own = Path(tempfile.gettempdir()) / f"stmdeploy-tests-{os.getuid()}-{worker}"
    own.mkdir(exist_ok=True)
    # What the C++ compiler made serves every worker; its headers alone take half a minute.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor-tests")
    os.environ["TMPDIR"] = tempfile.tempdir = str(own)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long tests where the workers begin: each gets an equal part of the list."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    items.clear()
    for i in range(workers):
        begin, end = (round(len(others) * at / workers) for at in (i, i + 1))
        items += [*long[i::workers], *others[begin:end]]


def reference_image(batch: int = 2, size: int = 224) -> torch.Tensor:
    """The input of `data/outputs.npz`."""
    values = np.random.RandomState(1000).standard_normal((batch, 3, size, size))
    return torch.from_numpy(values.astype(np.float32))


def at_night(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """Marks of a test of a backbone: deeper ones are the same code, and at night."""
    every_day = name.startswith("official_") or name.endswith(("_micro", "convnext_tiny"))
    return () if every_day else (pytest.mark.nightly,)


def relative_l2(got: torch.Tensor, expected: np.ndarray) -> float:
    """||got - expected|| / ||expected||."""
    difference = got.double().numpy() - expected.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> SharedArtifacts:
    """Artifacts that all test workers share."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return SharedArtifacts(shared / "artifacts")


@pytest.fixture(scope="session", autouse=True)
def shared_traces(artifacts: SharedArtifacts) -> Iterator[None]:
    """Of equal traces in all test workers one is run, and the others read what it came to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "_trace", SharedTraces(artifacts, onnx_graph._trace))
        yield


@pytest.fixture(autouse=True)
def shared_exports(artifacts: SharedArtifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `share_exports`; a module of tests that are about workers that export has a fixture of
    this name that does nothing."""
    share_exports(artifacts, monkeypatch)


@pytest.fixture
def progress() -> RecordedProgress:
    return RecordedProgress()


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    """Builds a row; keyword arguments overwrite its fields."""

    def build(**fields: object) -> Row:
        measurement = Measurement(
            latency_ms_p50=10.0,
            latency_ms_p50_low=9.5,
            latency_ms_p50_high=10.5,
            latency_ms_mean=10.1,
            latency_ms_min=9.0,
            latency_ms_p90=11.0,
            latency_ms_p95=None,
            latency_ms_p99=None,
            latency_with_copies_ms_p50=10.4,
            throughput_images_s=99.0,
            runtime_import_ms=40.0,
            load_ms=50.0,
            first_inference_ms=20.0,
            memory_before_load_mib=80.0,
            memory_peak_mib=150.0,
            device_memory_peak_mib=None,
            energy_j_per_image=None,
            energy_source="",
            processes=3,
            samples=300,
            warmup_runs=30,
            stopped_by="turns",
            steady=True,
            advice=(),
            runtime_facts={"version": "1.0", "provider": "CPU"},
            load_average_1min=0.5,
            before=Conditions(),
            after=Conditions(),
            scenario=None,
        )
        environment = Environment.model_validate(TEST_ENVIRONMENT)
        row = Row(
            model="unified_dcn_v3_micro",
            stm="dcn",
            scale="micro",
            weights="synthetic",
            weights_sha256="0" * 64,
            image_height_px=224,
            image_width_px=224,
            batch=1,
            precision="fp32",
            lowering="tokens",
            runtime="onnxruntime",
            device="cpu",
            device_name="Test CPU",
            threads=2,
            in_flight=1,
            scenario="loop",
            python="",
            published_top1_percent=75.3,
            published_box_ap_percent=39.5,
            published_mask_ap_percent=36.6,
            parameters=4302692,
            macs=667_000_000,
            matmul_conv_macs=636_000_000,
            activations=9_000_000,
            uncounted_operators={"gelu": 32},
            artifact_sha256="1" * 64,
            artifact_mib=18.0,
            export_s=10.0,
            build_s=None,
            relative_l2_error=3e-7,
            stmdeploy_version="0.1.0",
            started_utc="2026-01-01T00:00:00+00:00",
            environment=environment,
            measurement=measurement,
            failure=None,
        )
        return row.model_copy(update=fields)

    return build


@pytest.fixture(scope="session")
def make_process() -> Callable[..., ProcessRun]:
    """Builds a process of a row; keyword arguments overwrite its fields."""
    return a_process
