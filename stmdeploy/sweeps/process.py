"""Processes of rows, in workers, on this machine: one that runs alone, or a wave that takes turns.

Of the processes of a wave exactly one runs at a time. So all rows see the machine over the same
time, and what disturbs it falls on all of them alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from stmdeploy.errors import StmdeployError
from stmdeploy.hardware.machine import memory_available_mib
from stmdeploy.plugins.progress import Progress
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.spec.run import LOOP, RunSpec, SamplingSpec
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.worker.client import run_job, worker_settings
from stmdeploy.worker.jobs.job import without_checkpoint
from stmdeploy.worker.jobs.measure import MeasureJob
from stmdeploy.worker.lock import machine_lock
from stmdeploy.worker.player import Player

#: Share of the free memory that a worker may take.
_MEMORY_SHARE = 0.9
RowT = TypeVar("RowT", bound=Hashable)


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of every process of a sweep, as in `SweepSpec`."""

    sampling: SamplingSpec
    row_timeout_s: float
    memory_limit_mib: int | None


@dataclass(frozen=True)
class Task:
    """A row to be measured once.

    Attributes:
        artifact: its main file, whose hash was checked.
        environment: of this machine and interpreter.
        logs: folder that LoadGen writes to, if it measures.
        number: which of the row's processes it is, from 1.
    """

    row: RowSpec
    artifact: Path
    limits: ProcessLimits
    environment: Environment
    logs: Path
    number: int = 1

    @property
    def label(self) -> str:
        """What is measured, in words."""
        row = self.row
        told = f"{row.model.label} on {row.run.runtime}, batch {row.run.batch}"
        return f"measuring {told}, process {self.number}"

    def job(self) -> MeasureJob:
        """What a worker is told."""
        run, limits = self.row.run, self.limits
        return MeasureJob(
            artifact=self.artifact,
            model=without_checkpoint(self.row.model),
            run=run,
            sampling=limits.sampling,
            environment=None if run.python else self.environment,
            memory_limit_mib=_memory_limit(run, limits),
            logs=self.logs.resolve() if run.scenario.name != LOOP else None,
        )

    @property
    def timeout_s(self) -> float:
        """Seconds after which its worker is ended."""
        limits = self.limits
        seconds = limits.row_timeout_s + limits.sampling.process_budget_s
        return seconds + self.row.run.scenario.duration_s


def one_process(task: Task, progress: Progress) -> ProcessRun:
    """Measures one process of a row while no other is alive.

    Raises:
        StmdeployError: whatever went wrong in it.
    """
    run = task.row.run
    if not run.by_turns:
        progress.step(task.label)
        return run_job(task.job(), worker_settings(run), task.timeout_s, progress, run.python)
    (given,) = in_turns({0: task}, None, random.Random(0), progress).values()
    if isinstance(given, StmdeployError):
        raise given
    return given


def in_turns(
    tasks: Mapping[RowT, Task], wave: int | None, dice: random.Random, progress: Progress
) -> dict[RowT, ProcessRun | StmdeployError]:
    """Measures one process of every row, all alive at once; a row that fails does not stop others.

    Args:
        tasks: the rows, all of which take turns.
        wave: number of the wave; None if rows are not to be compared.
        dice: decides who begins, anew for every cycle of turns.
        progress: gets a step for every row.

    Returns:
        What each row gave, or why it failed.
    """
    turns = next(iter(tasks.values())).limits.sampling.turns
    with machine_lock(progress), ExitStack() as stack:
        playing = _Wave(tasks, stack)
        for row in dice.sample(list(tasks), len(tasks)):
            progress.step(tasks[row].label)
            playing.do(row, playing.start)
        for cycle in range(turns):
            progress.detail(f"turn {cycle + 1} of {turns}")
            for row in dice.sample(list(tasks), len(tasks)):
                playing.do(row, playing.take_turn)
        known = {"wave": wave, "alive": len(tasks) - len(playing.failed)}
        for row in tasks:
            playing.do(row, playing.end)
    ended = {row: run.model_copy(update=known) for row, run in playing.ended.items()}
    return {**ended, **playing.failed}


class _Wave(Generic[RowT]):
    """Processes that are alive at once; those that fail are told apart."""

    def __init__(self, tasks: Mapping[RowT, Task], stack: ExitStack) -> None:
        self._tasks, self._stack = tasks, stack
        self._players: dict[RowT, Player[ProcessRun]] = {}
        self.ended: dict[RowT, ProcessRun] = {}
        self.failed: dict[RowT, StmdeployError] = {}

    def do(self, row: RowT, step: Callable[[RowT], None]) -> None:
        """A step of a row, unless it failed in an earlier one."""
        if row not in self.failed:
            try:
                step(row)
            except StmdeployError as error:
                self.failed[row] = error
                if row in self._players:
                    self._players[row].close()  # it may hang, and would disturb the others

    def start(self, row: RowT) -> None:
        """Starts its process, and waits until it is warm."""
        task = self._tasks[row]
        run = task.row.run
        player = Player(task.job(), worker_settings(run), task.timeout_s, run.python)
        self._players[row] = self._stack.enter_context(player)
        player.listen()

    def take_turn(self, row: RowT) -> None:
        """Lets it take a turn."""
        self._players[row].take_turn()

    def end(self, row: RowT) -> None:
        """Lets it finish."""
        self.ended[row] = self._players[row].end()


def _memory_limit(run: RunSpec, limits: ProcessLimits) -> int | None:
    """On the CPU, most of what is free; a GPU's driver reserves far more than it uses."""
    if run.device != "cpu":
        return limits.memory_limit_mib
    return limits.memory_limit_mib or int(_MEMORY_SHARE * memory_available_mib())
