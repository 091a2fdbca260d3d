"""What runs on a node of a cluster: it looks at itself, and measures rows one at a time."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from stmdeploy.artifact import manifest_path, read_artifact
from stmdeploy.cluster.documents import NodeFacts, NodeGpu, RowAnswer, RowTask, Shipped
from stmdeploy.cluster.kinds import LOADGEN
from stmdeploy.contracts import Silent
from stmdeploy.errors import StmdeployError
from stmdeploy.explaining import gpu_peaks, measured_peaks, parts_of
from stmdeploy.files import publish, scratch_folder, staging, user_folder
from stmdeploy.hardware import all_gpus, environment, find_gpu
from stmdeploy.jobs import EngineJob, run_job, worker_settings
from stmdeploy.measure.loadgen import why_no_loadgen
from stmdeploy.measure.summary import wants_more
from stmdeploy.measuring import ProcessLimits, one_process
from stmdeploy.preparing import NO_ENGINE
from stmdeploy.registry import exporter_of, exporters
from stmdeploy.results.row import Environment, Peaks, PreparedArtifact, ProcessRun
from stmdeploy.results.store import now_utc
from stmdeploy.sweep import RowSpec

#: Gives the content of a file by its SHA-256.
Fetch = Callable[[str], bytes]


@dataclass(frozen=True)
class Here:
    """The node that this is: its id and name in the cluster."""

    id: str
    name: str


def facts_here() -> NodeFacts:
    """What this node is, and what it can run; with GPUs that this very task was not given."""
    unavailable = {
        runtime: reason
        for exporter in exporters().values()
        if (reason := exporter.unavailable())
        for runtime in exporter.runtimes
    }
    if hint := why_no_loadgen():
        unavailable[LOADGEN] = hint
    return NodeFacts(
        environment=environment(),
        gpus=tuple(NodeGpu(name=gpu.name, sliced=gpu.sliced) for gpu in all_gpus()),
        unavailable=unavailable,
    )


def cache_folder() -> Path:
    """Where a node keeps artifacts and engines: ``$XDG_CACHE_HOME/stmdeploy/node``."""
    return user_folder("XDG_CACHE_HOME", ".cache") / "stmdeploy" / "node"


def measure_row(task: RowTask, here: Here, fetch: Fetch) -> RowAnswer:
    """All processes of a row on this machine; what goes wrong is the answer's failure."""
    machine = environment()
    answer: dict[str, Any] = {
        "node_id": here.id,
        "node": here.name,
        "started_utc": now_utc(),
        "environment": machine,
    }
    try:
        row = _row_here(task, machine)
    except StmdeployError as error:
        return RowAnswer(**answer, ended_utc=now_utc(), misplaced=error.message)
    try:
        answer |= _measured(task, row, machine, fetch)
    except StmdeployError as error:
        answer |= {"failure": error.message, "code": int(error.code)}
    except Exception as error:  # noqa: BLE001  (an answer names the node; without one nobody knows)
        traceback.print_exc()
        answer["failure"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return RowAnswer(**answer, ended_utc=now_utc())


def _row_here(task: RowTask, machine: Environment) -> RowSpec:
    """The row with the GPU that it is measured on, which must be of its kind.

    Raises:
        StmdeployError: as `find_gpu`, another version of a package, or no such runtime.
    """
    row, mine = task.row, machine.versions
    for package, version in task.versions.items():
        if mine.get(package, version) != version:
            raise StmdeployError(f"it has {package} {mine[package]}, the others {version}")
    if reason := exporter_of(row.run.runtime).unavailable():
        raise StmdeployError(f"it cannot run {row.run.runtime}: {reason}")
    if row.run.device == "cpu":
        return row
    gpu, _ = find_gpu(task.profile)
    return replace(row, run=replace(row.run, gpu_uuid=gpu.uuid, gpu_name=gpu.name))


def _measured(task: RowTask, row: RowSpec, machine: Environment, fetch: Fetch) -> dict[str, Any]:
    """The parts of the answer that measuring gives.

    Raises:
        StmdeployError: an artifact that cannot be placed, or an engine not be built.
    """
    artifact = place_artifact(task.artifact, fetch)
    found: dict[str, Any] = {}
    if task.is_source:
        built = _built(task, row, artifact)
        if built.path is None:
            return {"failure": built.failure, "code": built.code}
        found["built"], artifact = built, built.path
    limits = ProcessLimits(task.sampling, task.row_timeout_s, task.memory_limit_mib)
    processes: tuple[ProcessRun, ...] = ()
    held = read_artifact(artifact)
    with scratch_folder("logs") as logs:
        while wants_more(processes, row.run, task.sampling):
            held.check()
            answer = one_process(row, artifact, limits, machine, logs, Silent())
            held.check()
            if answer.process is None:
                return {"failure": answer.failure, "code": answer.code}
            processes = (*processes, answer.process)
        found["logs"] = {
            path.relative_to(logs).as_posix(): path.read_text("utf-8", "replace")
            for path in sorted(logs.rglob("*"))
            if path.is_file()
        }
    found |= {"processes": processes, "device": row.run.gpu_name or machine.processor}
    return found | (_explained(row, artifact) if task.explain else {})


def place_artifact(shipped: Shipped, fetch: Fetch) -> Path:
    """The main file of a shipped artifact in this node's cache, every hash checked.

    Raises:
        StmdeployError: the cache cannot be written to, or what came is not what was sent.
    """
    main = shipped.files[0]
    content = "".join(file.sha256 for file in shipped.files)
    folder = cache_folder() / "artifacts" / hashlib.sha256(content.encode()).hexdigest()
    path = folder / main.name
    with suppress(StmdeployError):
        return read_artifact(path).path
    with staging(folder) as scratch:  # it is not there yet, or not whole
        for file in shipped.files:
            (scratch / file.name).write_bytes(fetch(file.sha256))
        manifest = manifest_path(scratch / main.name)
        manifest.write_text(shipped.manifest, "utf-8")
        names = [file.name for file in shipped.files]
        publish(scratch, [*reversed(names), manifest.name], folder)
    return read_artifact(path).path


def _built(task: RowTask, row: RowSpec, source: Path) -> PreparedArtifact:
    # A home may be shared by nodes, and an engine must not change while it is measured.
    folder = cache_folder() / "engines" / os.uname().nodename
    job = EngineJob(source=source, run=row.run, engine=task.engine, folder=folder)
    settings = worker_settings(row.run)
    answer = run_job(job, settings, task.export_timeout_s, Silent())
    if answer.built is not None:
        return answer.built
    failure = f"{NO_ENGINE}{answer.failure}"
    return PreparedArtifact(
        target="", precision=row.run.precision, failure=failure, code=answer.code
    )


@cache
def _cpu_peaks(threads: int, precision: str) -> Peaks | None:
    """Measured once: the process that runs a node's tasks lives longer than one of them."""
    return measured_peaks(threads, tuple(sorted({"fp32", precision})), Silent())


def _explained(row: RowSpec, artifact: Path) -> dict[str, Any]:
    """What this processor can do at most, and where the time of the row goes."""
    prepared = PreparedArtifact(target="", precision=row.run.precision, path=artifact)
    return {
        "peaks": _cpu_peaks(row.run.threads, row.run.precision.removesuffix("-dynamic"))
        if row.run.device == "cpu"
        else gpu_peaks(row.run.gpu_name),
        "parts_ms": parts_of(row, prepared, Silent()),
    }
