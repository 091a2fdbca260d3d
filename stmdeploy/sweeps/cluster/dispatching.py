"""Hands rows out to the nodes of a cluster, block by block, and stores them as they finish."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from stmdeploy.cluster.fleet import Fleet, Lost, Place
from stmdeploy.cluster.kinds import Kind, kind_of
from stmdeploy.cluster.planning import ClusterSpec, Plan
from stmdeploy.errors import DiskFullError, Failure, FailureKind, StmdeployError
from stmdeploy.plugins.progress import Progress
from stmdeploy.results.state import DONE, FAILED, MEASURING, PlannedRow, now_utc
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.row import Row, Try
from stmdeploy.spec.sweep import RowSpec, shuffled
from stmdeploy.sweeps.cluster.answers import measured_rows, try_of
from stmdeploy.sweeps.cluster.documents import BlockAnswer, BlockTask, RowTask
from stmdeploy.sweeps.cluster.queues import Queue, Queues, Running
from stmdeploy.sweeps.cluster.shipping import Shipping
from stmdeploy.sweeps.comparing import compare_by_reference
from stmdeploy.sweeps.prepared import PreparedSweep

Tries = tuple[Try, ...]

#: How often a row is tried, each time on another node if there is one.
_MOST_TRIES = 3
#: Tasks handed to Ray per node, so that no node waits for the driver.
_AHEAD = 2
_TICK_S = 1.0


class ClusterRun:
    """A prepared sweep that the nodes of a cluster measure.

    The driver holds the positions of the open rows in memory, and whole only the few rows that are
    being measured.
    """

    def __init__(
        self,
        prepared: PreparedSweep,
        fleet: Fleet[BlockTask, BlockAnswer],
        cluster: ClusterSpec,
        progress: Progress,
        on_row: Callable[[Row], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._prepared, self._fleet, self._cluster = prepared, fleet, cluster
        self._progress, self._on_row = progress, on_row
        self._store, self._sweep, self._spec = prepared.store, prepared.id, prepared.spec
        self._shipping = Shipping(prepared, fleet)
        self._tried: set[int] = set()
        self._failed: set[int] = set()

    def measure(self, plan: Plan) -> None:
        """Measures every open row on a node of its kind.

        Raises:
            StmdeployError: (exit code 5) the cluster is gone, or a kind lost its nodes for too
                long.
        """
        for difference in plan.differences:
            self._progress.warn(f"versions differ, and every row records its own: {difference}")
        for kind, chosen in plan.chosen.items():
            for reason in chosen.avoided.values():
                self._progress.warn(f"a node is left out for {kind.flag}: {reason}")
        self._versions = dict(plan.versions)
        self._queues = queues = Queues(self._fleet, self._cluster, plan, self._progress, self._now)
        self._line_up()
        try:
            while queues.is_open:
                queues.look()
                self._hand_out()
                if not queues.running and queues.patience_is_over():
                    break
                for handle, answer in self._fleet.wait(queues.running.keys(), _TICK_S):
                    self._take_back(queues.take_back(handle), answer)
        except BaseException:
            with suppress(StmdeployError):  # the cluster may be what is gone
                self._fleet.cancel(list(queues.running))
            raise
        queues.check_done()
        compare_by_reference(self._store, self._sweep)

    def _line_up(self) -> None:
        """Puts the open rows into the queues of their kinds: rows of one batch, which are compared
        first of all, behind each other, otherwise in random order."""
        open_rows: dict[int, tuple[Kind, int]] = {}
        planned: dict[Kind, list[PlannedRow]] = {}
        for row in self._store.planned(self._sweep):
            run = row.row.run
            if row.state == MEASURING:
                self._tried.add(row.position)
            if row.state != FAILED:
                planned.setdefault(kind_of(run), []).append(row)
            if row.state not in (DONE, FAILED):
                open_rows[row.position] = kind_of(run), run.batch
        # Rows of other kinds were opened again by another driver, which measures them.
        queues = self._queues.by_kind
        mine = sorted(p for p, (kind, _) in open_rows.items() if kind in queues)
        batches = shuffled(sorted({open_rows[p][1] for p in mine}), self._sweep, 0)
        order = {batch: place for place, batch in enumerate(batches)}
        for p in sorted(shuffled(mine, self._sweep, 0), key=lambda p: order[open_rows[p][1]]):
            queues[open_rows[p][0]].waiting.append(p)
        for kind, queue in queues.items():
            rows = {row.row: row for row in planned.get(kind, ())}
            chosen = self._spec.reference_of(list(rows))
            queue.reference = None if chosen is None else rows[chosen]
        self._progress.expect(len(mine))

    def _hand_out(self) -> None:
        for queue in self._queues.by_kind.values():
            while queue.waiting and queue.running < _AHEAD * queue.nodes:
                self._start(queue, self._next_block(queue))

    def _next_block(self, queue: Queue) -> list[PlannedRow]:
        """Waiting rows that take turns; or one alone: a row that takes none, or failed before."""
        size = queue.block_size
        block = [self._planned(queue.waiting.popleft())]
        while len(block) < size and queue.waiting and self._takes_turns(block[0]):
            following = self._planned(queue.waiting[0])
            if not self._takes_turns(following):
                break
            block.append(following)
            queue.waiting.popleft()
        return block

    def _planned(self, position: int) -> PlannedRow:
        (planned,) = self._store.planned(self._sweep, position)
        return planned

    def _takes_turns(self, row: PlannedRow) -> bool:
        return row.position not in self._tried and row.row.run.by_turns

    def _start(self, queue: Queue, rows: list[PlannedRow]) -> None:
        sent = {row: task for row in rows if (task := self._task_of(row)) is not None}
        if not sent:
            return
        guest = self._guest(queue, list(sent))
        if guest is not None and (task := self._task_of(guest)) is not None:
            sent[guest] = task
        positions = [row.position for row in sent]
        sweep, reference = self._spec, queue.reference
        known = reference is not None and reference.position in positions
        block = BlockTask(
            rows=tuple(sent.values()),
            reference=positions.index(reference.position) if reference and known else None,
            engine=sweep.engine,
            sampling=sweep.sampling,
            row_timeout_s=sweep.row_timeout_s,
            export_timeout_s=sweep.export_timeout_s,
            memory_limit_mib=sweep.memory_limit_mib,
            explain=sweep.explain,
            profile=queue.profile,
            versions=self._versions,
        )
        mine = tuple(row for row in sent if row is not guest)
        failed_on = {tried.node for row in mine for tried in self._tries(row.position)}
        avoided = frozenset(queue.avoided | self._spared(queue, failed_on))
        place = Place(queue.kind.accelerator_type, queue.kind.gpu, avoided)
        handle = self._fleet.start(block, place)
        self._queues.running[handle] = Running(queue, mine, guest, place, now_utc())
        queue.running += 1

    def _guest(self, queue: Queue, rows: list[PlannedRow]) -> PlannedRow | None:
        """The reference, if it takes part in a block only for the sake of its rows."""
        reference = queue.reference
        if reference is None or not rows[0].row.run.by_turns:
            return None
        return None if reference.position in {row.position for row in rows} else reference

    def _task_of(self, planned: PlannedRow) -> RowTask | None:
        """What a node is told of a row; None if its artifact is no longer what was prepared."""
        try:
            return self._shipping.task_of(planned.row)
        except StmdeployError as error:
            if planned.state != DONE and planned.position not in self._failed:
                self._fail(planned, Failure.of(error))
            return None

    def _spared(self, queue: Queue, failed_on: set[str]) -> set[str]:
        """Ids of nodes that rows have failed on, unless no other node is left."""
        if not failed_on:
            return set()
        nodes = queue.places(self._fleet.nodes())
        failed = {node.id for node in nodes if node.label in failed_on}
        return failed if len(failed) < len(nodes) else set()

    def _tries(self, position: int) -> Tries:
        if position not in self._tried:
            return ()
        row = self._store.row_so_far(self._sweep, position)
        return row.tries if row is not None else ()

    def _take_back(self, running: Running, answer: BlockAnswer | Lost) -> None:
        queue = running.queue
        if isinstance(answer, BlockAnswer) and answer.misplaced:
            self._queues.avoid(queue, answer.node_id, answer.node, answer.misplaced)
            queue.waiting.extend(row.position for row in running.rows)
            self._queues.look_soon()
            return
        if isinstance(answer, Lost):
            self._queues.look_soon()
            failure = Failure(FailureKind.DEVICE, answer.reason)
            for row in running.rows:
                self._try_again(queue, row, failure, self._tried_now(row, running, answer))
            return
        kept = []
        for row, given in zip(running.rows, answer.rows, strict=False):
            tries = self._tried_now(row, running, answer, given.failure)
            if given.failure is not None:
                self._try_again(queue, row, given.failure, tries, answer.environment)
            else:
                kept.append((row, tries))
        self._keep(running, answer, dict(kept))

    def _tried_now(
        self,
        row: PlannedRow,
        running: Running,
        answer: BlockAnswer | Lost,
        failure: Failure | None = None,
    ) -> Tries:
        return (*self._tries(row.position), try_of(running, answer, failure))

    def _try_again(
        self,
        queue: Queue,
        planned: PlannedRow,
        failure: Failure,
        tries: Tries,
        environment: Environment | None = None,
    ) -> None:
        """Queues a failed row once more; or lets it fail, after its last try."""
        spec, position = planned.row, planned.position
        # An engine that runs out of memory would do so on another node, too.
        if len(tries) >= _MOST_TRIES or failure.kind is FailureKind.OUT_OF_MEMORY:
            self._fail(planned, failure, tries, environment)
            return
        again = replace(failure, message=f"to be tried again: {failure.message}")
        row = self._prepared.row(spec, failure=again).model_copy(update={"tries": tries})
        self._store.save_row(self._sweep, position, row, MEASURING)
        self._tried.add(position)
        self._progress.warn(f"{_title(spec)}: {failure.message}; it is tried again")
        queue.waiting.append(position)

    def _fail(
        self,
        planned: PlannedRow,
        failure: Failure,
        tries: Tries = (),
        environment: Environment | None = None,
    ) -> None:
        """Saves a failed row; the environment is that of the node, if it could answer."""
        spec, position = planned.row, planned.position
        known = {"environment": environment} if environment else {}
        row = self._prepared.row(spec, failure=failure).model_copy(update={"tries": tries, **known})
        self._store.save_row(self._sweep, position, row, FAILED)
        self._failed.add(position)
        queue = self._queues.by_kind[kind_of(spec.run)]
        if queue.reference is not None and queue.reference.position == position:
            queue.reference = None
        self._progress.step(f"{_title(spec)} failed: {failure.message}")
        self._on_row(row)
        added = self._prepared.add_smaller(spec, failure)
        if added is not None:
            queue.waiting.append(added)
            self._progress.expect(1)

    def _keep(self, running: Running, answer: BlockAnswer, tries: dict[PlannedRow, Tries]) -> None:
        """Saves the measured rows of a block, all or none; those that fit, if the disk is full."""
        measured = measured_rows(self._prepared, running, answer, tries)
        try:
            kept = self._store.add_processes(self._sweep, list(measured.values()))
        except DiskFullError as error:
            if len(measured) > 1:
                for row, tried in tries.items():
                    self._keep(running, answer, {row: tried})
                return
            # A row without samples takes little room; if there is not even that much, this raises.
            failure = Failure(FailureKind.STORAGE, error.message, error.hint)
            for row, tried in tries.items():
                self._fail(row, failure, tried, answer.environment)
            return
        for planned, one in measured.items() if kept else ():
            self._progress.step(f"{_title(planned.row)} measured on {answer.node}")
            self._on_row(one.row)


def _title(spec: RowSpec) -> str:
    run = spec.run
    return f"{spec.model.label} on {run.runtime}, {run.node}, {run.precision}, batch {run.batch}"
