"""Runs on a node of a cluster: reports what the node is, and measures rows one at a time."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from stmdeploy.errors import Failure, FailureKind, StmdeployError
from stmdeploy.files import places
from stmdeploy.files.writing import publish, scratch_folder, staging
from stmdeploy.hardware.environment import environment
from stmdeploy.hardware.gpus import find_gpu
from stmdeploy.hardware.nvml import all_gpus
from stmdeploy.measure.loadgen import why_no_loadgen
from stmdeploy.measure.summary import wants_more
from stmdeploy.plugins.progress import Silent
from stmdeploy.plugins.registry import exporter_of, exporters
from stmdeploy.results.state import now_utc
from stmdeploy.schema.artifact import manifest_path, read_artifact
from stmdeploy.schema.hardware import Environment, Peaks
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import PreparedArtifact
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.sweeps.cluster.documents import NodeFacts, NodeGpu, RowAnswer, RowTask, Shipped
from stmdeploy.sweeps.cluster.fleet import Node
from stmdeploy.sweeps.cluster.kinds import LOADGEN
from stmdeploy.sweeps.explanation import gpu_peaks, measured_peaks, parts_of
from stmdeploy.sweeps.exports import path_of
from stmdeploy.sweeps.process import ProcessLimits, Task, one_process
from stmdeploy.worker.client import run_job, worker_settings
from stmdeploy.worker.jobs.engine import EngineJob
from stmdeploy.worker.process import failure_of

#: Returns the content of a file, given its SHA-256.
Fetch = Callable[[str], bytes]


def facts_here() -> NodeFacts:
    """What this node is and can run; all its GPUs are listed, also those that Ray hides."""
    unavailable = {
        runtime: reason
        for exporter in exporters().values()
        if (reason := exporter.unavailable())
        for runtime in exporter.target.runtimes
    }
    if hint := why_no_loadgen():
        unavailable[LOADGEN] = hint
    return NodeFacts(
        environment=environment(),
        gpus=tuple(NodeGpu(name=gpu.name, sliced=gpu.sliced) for gpu in all_gpus()),
        unavailable=unavailable,
    )


def cache_folder() -> Path:
    """The folder of a node's artifacts and engines: ``$XDG_CACHE_HOME/stmdeploy/node``."""
    return places.cache_folder() / "node"


def measure_row(task: RowTask, here: Node, fetch: Fetch) -> RowAnswer:
    """Measures all processes of a row on this node; errors become the answer's failure."""
    machine = environment()
    answer: dict[str, Any] = {
        "node_id": here.id,
        "node": here.label,
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
        answer["failure"] = Failure.of(error)
    except Exception as error:  # noqa: BLE001  (only an answer tells the driver which node it was)
        traceback.print_exc()
        answer["failure"] = failure_of(error)
    return RowAnswer(**answer, ended_utc=now_utc())


def _row_here(task: RowTask, machine: Environment) -> RowSpec:
    """The row, with the GPU of this node filled in.

    Raises:
        StmdeployError: as `find_gpu`; another version of a package; the runtime is not installed.
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
    """Measures a row; returns fields of the answer.

    Raises:
        StmdeployError: the artifact cannot be stored, its engine cannot be built, or a process
            failed.
    """
    artifact = place_artifact(task.artifact, fetch)
    found: dict[str, Any] = {}
    if task.is_source:
        found["built"] = built = _built(task, row, artifact)
        artifact = path_of(built)
    limits = ProcessLimits(task.sampling, task.row_timeout_s, task.memory_limit_mib)
    processes: tuple[ProcessRun, ...] = ()
    held = read_artifact(artifact)
    with scratch_folder("logs") as logs:
        here = Task(row, artifact, limits, machine, logs)
        while wants_more(processes, row.run, task.sampling):
            held.check()
            processes = (*processes, one_process(here, Silent()))
            held.check()
        found["logs"] = {
            path.relative_to(logs).as_posix(): path.read_text("utf-8", "replace")
            for path in sorted(logs.rglob("*"))
            if path.is_file()
        }
    found |= {"processes": processes, "device": row.run.gpu_name or machine.processor}
    return found | (_explained(row, artifact) if task.explain else {})


def place_artifact(shipped: Shipped, fetch: Fetch) -> Path:
    """Puts an artifact into this node's cache, fetching what is not there; returns its main file.

    Raises:
        StmdeployError: the cache cannot be written to, or a hash does not match.
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
    try:
        return run_job(job, worker_settings(row.run), task.export_timeout_s, Silent())
    except StmdeployError as error:
        kind = FailureKind.NOT_EXPORTED  # whatever the batch, so half of it would not help
        raise StmdeployError(f"no engine: {error.message}", error.hint, error.code, kind) from error


@cache
def _cpu_peaks(threads: int, precision: str) -> Peaks | None:
    """Cached, because the process that runs a node's tasks runs many of them."""
    return measured_peaks(threads, tuple(sorted({"fp32", precision})), Silent())


def _explained(row: RowSpec, artifact: Path) -> dict[str, Any]:
    """The peaks of this node's processor, and the time of each model part."""
    run, peaks = row.run, gpu_peaks(row.run.gpu_name)
    if run.device == "cpu":
        peaks = _cpu_peaks(run.threads, run.precision.removesuffix("-dynamic"))
    return {"peaks": peaks, "parts_ms": parts_of(row, artifact, Silent())}
