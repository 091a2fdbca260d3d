"""A clock and runners with known times, and a progress that remembers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from stmdeploy.plugins.runner import OnStream
from stmdeploy.schema.evaluation import Evaluation, Share95
from stmdeploy.schema.hardware import Conditions, Environment
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row

#: A machine that exists nowhere.
TEST_ENVIRONMENT = {
    "processor": "Test CPU",
    "cores": 2,
    "threads_available": 2,
    "memory_gib": 8.0,
    "gpus": (),
    "os": "Linux 6",
    "python": "3.11.0",
    "virtual_machine": None,
    "governor": None,
    "load_average_1min": 0.1,
    "versions": {"torch": "2.13.0"},
}


class FakeClock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.ns = 0

    def now_ns(self) -> int:
        return self.ns

    def advance_ms(self, ms: float) -> None:
        self.ns += round(ms * 1e6)


class FakeRunner:
    """A runner whose inferences take the given times; the last one repeats for ever."""

    def __init__(self, clock: FakeClock, times_ms: Iterable[float]) -> None:
        times = list(times_ms)
        self._clock = clock
        self._times: Iterator[float] = chain(times, repeat(times[-1]))
        self.runs = 0
        self.fed = 0
        self.prepared: npt.NDArray[np.float32] | None = None

    def prepare(self, *inputs: npt.NDArray[np.float32]) -> None:
        (self.prepared,) = inputs

    def feed(self, *inputs: npt.NDArray[np.float32]) -> None:
        (self.prepared,) = inputs
        self.fed += 1

    def another(self) -> FakeRunner:
        return self

    def on_stream(self) -> OnStream | None:
        return None

    def run(self) -> None:
        self.runs += 1
        self._clock.advance_ms(next(self._times))

    def outputs(self) -> tuple[npt.NDArray[np.float32], ...]:
        return (np.zeros((1, 1), np.float32),)

    def facts(self) -> dict[str, str]:
        return {"runtime": "fake", "version": "0", "provider": "fake"}


class RecordedProgress:
    """Remembers the steps it was told of."""

    def __init__(self) -> None:
        self.expected = 0
        self.phases: list[tuple[str, int]] = []
        self.steps: list[str] = []
        self.warnings: list[str] = []
        self.details: list[str] = []

    def phase(self, name: str, steps: int) -> None:
        self.phases.append((name, steps))

    def expect(self, steps: int) -> None:
        self.expected += steps

    def step(self, text: str) -> None:
        self.steps.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def evaluation(
    row: Row, percent: float, created: str = "2026-01-01", half: float = 1.0
) -> Evaluation:
    """An evaluation of a row's artifact with a top-1, give or take half its interval."""
    share = Share95(percent=percent, low=max(0.0, percent - half), high=min(100.0, percent + half))
    return Evaluation(
        artifact_sha256=str(row.artifact_sha256), model=row.model, weights="checkpoint",
        weights_sha256="0" * 64, image_size=(224, 224), precision="fp32", runtime=row.runtime,
        runtime_version="1", provider="CPU", data="val", data_sha256="2" * 64, images=100,
        skipped=0, skipped_files=(), top1=share, top5=share, reference=None, agreement=None,
        reference_top1=None, created_utc=created, environment=row.environment,
    )  # fmt: skip


class RecordedNvml:
    """NVML's answers, as recorded: (name, uuid, MIG mode; None where there is none)."""

    NVML_DEVICE_MIG_ENABLE = 1
    NVML_COMPUTEMODE_DEFAULT = 0
    NVML_COMPUTEMODE_PROHIBITED = 2
    NVML_COMPUTEMODE_EXCLUSIVE_PROCESS = 3
    mode = 0
    users: tuple[int, ...] = ()
    power_limit_mw: int | None = 72_000

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: tuple[str | bytes, str, int | None]) -> None:
        self.gpus, self.open = gpus, 0
        self.told: list[str] = []
        self.held_back_ns: dict[int, int] = {}

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetComputeMode(self, handle: int) -> int:  # noqa: N802
        del handle
        return self.mode

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> tuple[int, ...]:  # noqa: N802
        del handle
        return self.users

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return [gpu[1] for gpu in self.gpus].index(uuid)

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.86.10"

    def nvmlDeviceGetPowerManagementLimit(self, handle: int) -> int:  # noqa: N802
        del handle
        if self.power_limit_mw is None:
            raise self.NVMLError("Not Supported")
        return self.power_limit_mw

    NVML_SUCCESS = 0
    NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP = 269
    NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN = 270
    locks_refused = False

    def nvmlDeviceSetGpuLockedClocks(self, handle: int, least: int, most: int) -> None:  # noqa: N802
        if self.locks_refused:
            raise self.NVMLError("Insufficient Permissions")
        self.told.append(f"lock {self.gpus[handle][1]} {least} {most}")

    def nvmlDeviceResetGpuLockedClocks(self, handle: int) -> None:  # noqa: N802
        self.told.append(f"unlock {self.gpus[handle][1]}")

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[SimpleNamespace]:  # noqa: N802
        del handle
        return [
            SimpleNamespace(
                nvmlReturn=0 if field in self.held_back_ns else 3,
                value=SimpleNamespace(ullVal=self.held_back_ns.get(field, 0)),
            )
            for field in fields
        ]

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:  # noqa: N802
        return self.gpus[handle][0]

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return self.gpus[handle][1]

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        mode = self.gpus[handle][2]
        if mode is None:
            raise self.NVMLError("Not Supported")
        return mode, mode


def a_process(**fields: object) -> ProcessRun:
    """A process of a row; keyword arguments overwrite its fields."""
    process = ProcessRun(
        samples_ms=(9.0, 10.0, 11.0),
        copies_ms=(12.0, 12.5),
        warmup_ms=(15.0,),
        warmup_ended_by="steady",
        stopped_by="turns",
        window_s=0.03,
        burst_runs=3,
        burst_s=0.03,
        runtime_import_ms=40.0,
        load_ms=50.0,
        first_inference_ms=20.0,
        memory_before_load_mib=80.0,
        memory_peak_mib=150.0,
        device_memory_peak_mib=None,
        energy_j=None,
        energy_source="",
        runtime_facts={"version": "1.0", "provider": "CPU"},
        load_average_1min=0.5,
        before=Conditions(),
        after=Conditions(),
        environment=Environment.model_validate(TEST_ENVIRONMENT),
    )
    return process.model_copy(update=fields)
