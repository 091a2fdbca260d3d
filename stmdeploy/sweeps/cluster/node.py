"""Runs on a node of a cluster: measures rows by turns."""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from stmdeploy.cluster.facts import run_here
from stmdeploy.cluster.fleet import Node
from stmdeploy.cluster.ray_fleet import Work
from stmdeploy.cluster.shipping import Fetch, cache_folder, place_artifact
from stmdeploy.errors import Failure, FailureKind, StmdeployError
from stmdeploy.files.writing import scratch_folder
from stmdeploy.hardware.environment import environment
from stmdeploy.measure.summary import processes_of
from stmdeploy.plugins.progress import Silent
from stmdeploy.results.state import now_utc
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.schema.hardware import Environment, Peaks
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import PreparedArtifact
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.sweeps.blocks import blocks, free_memory
from stmdeploy.sweeps.cluster.documents import (
    BlockAnswer,
    BlockTask,
    RowAnswer,
)
from stmdeploy.sweeps.explanation import gpu_peaks, measured_peaks, parts_of
from stmdeploy.sweeps.exports import path_of
from stmdeploy.sweeps.process import ProcessLimits, Task, in_turns, one_process
from stmdeploy.worker.client import run_job, worker_settings
from stmdeploy.worker.jobs.engine import EngineJob
from stmdeploy.worker.process import failure_of


def measure_block(task: BlockTask, here: Node, fetch: Fetch) -> BlockAnswer:
    """Measures all processes of a block's rows on this node, by turns; what goes wrong with a row
    becomes the failure of its answer."""
    machine = environment()
    answer: dict[str, Any] = {
        "node_id": here.id,
        "node": here.label,
        "started_utc": now_utc(),
        "environment": machine,
    }
    try:
        rows = [_row_here(one.row, task) for one in task.rows]
    except StmdeployError as error:
        return BlockAnswer(**answer, ended_utc=now_utc(), misplaced=error.message)
    with scratch_folder("logs") as logs:
        block = _Block(task, rows, machine, fetch, logs)
        block.place()
        block.measure()
        answers = tuple(block.answer(place) for place in range(len(rows)))
    return BlockAnswer(**answer, ended_utc=now_utc(), rows=answers)


def _row_here(row: RowSpec, task: BlockTask) -> RowSpec:
    return replace(row, run=run_here(row.run, task.profile, task.versions))


class _Block:
    """Rows that this node measures; whatever one of them meets is its own failure."""

    def __init__(
        self, task: BlockTask, rows: list[RowSpec], machine: Environment, fetch: Fetch, logs: Path
    ) -> None:
        self._task, self._rows, self._machine = task, rows, machine
        self._fetch, self._logs = fetch, logs
        self._dice = random.Random(task.rows[0].row.key)
        self._held: dict[int, Artifact] = {}
        self._built: dict[int, PreparedArtifact] = {}
        self._processes: dict[int, tuple[ProcessRun, ...]] = {}
        self._failures: dict[int, Failure] = {}

    def place(self) -> None:
        """Fetches the rows' artifacts, and builds their engines."""
        for place, given in enumerate(self._task.rows):
            with self._own_failure(place):
                artifact = place_artifact(given.artifact, self._fetch)
                if given.is_source:
                    self._built[place] = _built(self._task, self._rows[place], artifact)
                    artifact = path_of(self._built[place])
                self._held[place] = read_artifact(artifact)

    def measure(self) -> None:
        """Measures wave after wave of as many rows as fit into memory, until none needs more."""
        task, first_wave = self._task, 0
        ready = list(self._held)
        if not all(row.run.by_turns for row in self._rows):
            cut = [[place] for place in ready]
        else:
            gpus = {place: self._rows[place].run.gpu_uuid for place in ready}
            memory_mib = {place: task.rows[place].memory.by_place(gpus[place]) for place in ready}
            reference = task.reference if task.reference in ready else None
            cut = blocks(ready, reference, memory_mib, free_memory(gpus.values()))
        for block in cut:
            count = processes_of(self._rows[block[-1]].run, task.sampling)
            for number in range(count):
                self._measure_wave(block, first_wave + number)
            first_wave += count

    def _measure_wave(self, block: Sequence[int], wave: int) -> None:
        """Measures one more process of the rows that have not failed."""
        for place in block:
            with self._own_failure(place):
                self._held[place].check()
        tasks = {place: self._process(place) for place in block if place not in self._failures}
        for place, given in self._given(tasks, wave).items():
            with self._own_failure(place):
                if isinstance(given, StmdeployError):
                    raise given
                self._held[place].check()
                self._processes[place] = (*self._processes.get(place, ()), given)

    def _given(
        self, tasks: dict[int, Task], wave: int
    ) -> Mapping[int, ProcessRun | StmdeployError]:
        if not tasks:
            return {}
        if all(self._rows[place].run.by_turns for place in tasks):
            return in_turns(tasks, wave, self._dice, Silent())
        ((place, task),) = tasks.items()
        try:
            return {place: one_process(task, Silent())}
        except StmdeployError as error:
            return {place: error}

    def _process(self, place: int) -> Task:
        task = self._task
        limits = ProcessLimits(task.sampling, task.row_timeout_s, task.memory_limit_mib)
        artifact, logs = self._held[place].path, self._logs / str(place)
        return Task(self._rows[place], artifact, limits, self._machine, logs)

    def answer(self, place: int) -> RowAnswer:
        """What a row came to, explained if it was measured."""
        row, found = self._rows[place], dict[str, Any]()
        if place not in self._failures and self._task.explain:
            with self._own_failure(place):
                found = _explained(row, self._held[place].path)
        return RowAnswer(
            device=row.run.gpu_name or self._machine.processor,
            processes=self._processes.get(place, ()),
            built=self._built.get(place),
            logs=_texts_in(self._logs / str(place)),
            failure=self._failures.get(place),
            **found,
        )

    @contextmanager
    def _own_failure(self, place: int) -> Iterator[None]:
        """What goes wrong is the failure of one row; without an answer the driver would not even
        know which node it was."""
        try:
            yield
        except StmdeployError as error:
            self._failures[place] = Failure.of(error)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            self._failures[place] = failure_of(error)


def _texts_in(folder: Path) -> dict[str, str]:
    """The files of a folder as text, by their paths; empty if there is none."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder).as_posix()): p.read_text("utf-8", "replace") for p in files}


def _built(task: BlockTask, row: RowSpec, source: Path) -> PreparedArtifact:
    # A home may be shared by nodes, and an engine must not change while it is measured.
    folder = cache_folder() / "engines" / os.uname().nodename
    engine = task.engine.for_batch(row.run.batch)
    job = EngineJob(source=source, run=row.run, engine=engine, folder=folder)
    try:
        return run_job(job, worker_settings(row.run), task.export_timeout_s, Silent())
    except StmdeployError as error:
        kind = FailureKind.NOT_EXPORTED  # whatever the batch, so half of it would not help
        raise StmdeployError(f"no engine: {error.message}", error.hint, error.code, kind) from error


def _measure(task: BlockTask, _: bytes, here: Node, fetch: Fetch) -> BlockAnswer:
    return measure_block(task, here, fetch)


#: What nodes of a sweep do.
MEASURING = Work(
    do=_measure,
    task=BlockTask,
    answer=BlockAnswer,
    title=lambda task: task.rows[0].row.model.label,
    files=lambda task: [file.sha256 for row in task.rows for file in row.artifact.files],
)


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
