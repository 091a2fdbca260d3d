"""Rows that wait for nodes or run on them, and the nodes as they come and go."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from stmdeploy.cluster.fleet import Fleet, Handle, Node, Place
from stmdeploy.cluster.kinds import Kind, why_not
from stmdeploy.cluster.planning import ClusterSpec, Plan
from stmdeploy.errors import ExitCode, FailureKind, StmdeployError
from stmdeploy.plugins.progress import Progress
from stmdeploy.results.state import PlannedRow
from stmdeploy.sweeps.cluster.documents import BlockAnswer, BlockTask

#: Seconds between two looks at the nodes.
_LOOK_S = 10.0
#: Rows of a block at most: what a lost node costs, against one more reference for every block.
_MOST_IN_BLOCK = 7


@dataclass
class Queue:
    """The rows of one kind that wait for a node, and the nodes that they may go to.

    `reference` is the row that all others of the kind take turns with.
    """

    kind: Kind
    avoided: set[str]
    profile: str
    reference: PlannedRow | None = None
    waiting: deque[int] = field(default_factory=deque)
    running: int = 0
    nodes: int = 0
    none_since: float | None = None

    def places(self, nodes: Iterable[Node]) -> list[Node]:
        """Those of some nodes that its rows may go to."""
        kind = self.kind.accelerator_type
        return [n for n in nodes if kind in n.accelerator_types and n.id not in self.avoided]

    @property
    def block_size(self) -> int:
        """How many of the waiting rows the next block gets, so that no node is left without."""
        free = self.nodes - self.running
        share = math.ceil(len(self.waiting) / max(1, free if free > 0 else self.nodes))
        return min(share, _MOST_IN_BLOCK)


@dataclass(frozen=True)
class Running:
    """A block of rows that was handed out. A reference that is of another block is the guest: it is
    measured for the sake of the others, and keeps its own figures."""

    queue: Queue
    rows: tuple[PlannedRow, ...]
    guest: PlannedRow | None
    place: Place
    started_utc: str


class Queues:
    """The queues of a sweep by kind, and the blocks that were handed out."""

    def __init__(
        self,
        fleet: Fleet[BlockTask, BlockAnswer],
        cluster: ClusterSpec,
        plan: Plan,
        progress: Progress,
        now: Callable[[], float],
    ) -> None:
        self._fleet, self._progress, self._now = fleet, progress, now
        self._patience_s = cluster.patience_s
        self.running: dict[Handle, Running] = {}
        self.by_kind = {
            kind: Queue(kind, set(chosen.avoided), chosen.profile)
            for kind, chosen in plan.chosen.items()
        }
        self._met = set(plan.asked)
        self._looked = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether unfinished rows are left."""
        return any(queue.waiting or queue.running for queue in self.by_kind.values())

    def take_back(self, handle: Handle) -> Running:
        """Removes and returns a block whose task has ended."""
        running = self.running.pop(handle)
        running.queue.running -= 1
        return running

    def avoid(self, queue: Queue, node_id: str, label: str, reason: str) -> None:
        """Keeps a queue's rows away from a node from now on."""
        queue.avoided.add(node_id)
        self._progress.warn(f"{label} is left out: {reason}")

    def look_soon(self) -> None:
        """Makes the next `look` ask for the nodes, because they have changed."""
        self._looked = -math.inf

    def look(self) -> None:
        """Every 10 s, asks for the nodes: meets new ones, and queues the rows of lost ones."""
        now = self._now()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        nodes = self._fleet.nodes()
        self._meet(nodes)
        self._take_back_unplaceable(nodes)
        for queue in self.by_kind.values():
            queue.nodes = len(queue.places(nodes))
            if queue.nodes or not (queue.waiting or queue.running):
                queue.none_since = None
            elif queue.none_since is None:
                queue.none_since = now
                self._progress.warn(f"no node is left for {queue.kind.flag}: waiting for one")
            elif now - queue.none_since > self._patience_s:
                self._give_up([h for h, row in self.running.items() if row.queue is queue])

    def _meet(self, nodes: Sequence[Node]) -> None:
        """Asks new nodes what they are; those that do not fit are left out."""
        wanted = {queue.kind.accelerator_type for queue in self.by_kind.values()}
        new = [n for n in nodes if n.id not in self._met and n.accelerator_types & wanted]
        facts = self._fleet.survey(new) if new else {}
        for node in new:
            self._met.add(node.id)
            for queue in self.by_kind.values():
                if queue.kind.accelerator_type not in node.accelerator_types:
                    continue
                if reason := why_not(queue.kind, node, facts[node.id]):
                    self.avoid(queue, node.id, node.label, reason)

    def _take_back_unplaceable(self, nodes: Sequence[Node]) -> None:
        """Queues rows again that wait for a lost node, and may not go to those that are left."""
        for handle, running in list(self.running.items()):
            kind, avoided = running.place.accelerator_type, running.place.avoided
            of_type = [node for node in nodes if kind in node.accelerator_types]
            if of_type and all(node.id in avoided for node in of_type):
                self._give_up([handle])

    def _give_up(self, handles: list[Handle]) -> None:
        self._fleet.cancel(handles)
        for handle in handles:
            running = self.take_back(handle)
            running.queue.waiting.extend(row.position for row in running.rows)

    def patience_is_over(self) -> bool:
        """Whether every kind with waiting rows has been without nodes for too long."""
        now = self._now()
        return all(
            queue.none_since is not None and now - queue.none_since > self._patience_s
            for queue in self.by_kind.values()
            if queue.waiting
        )

    def check_done(self) -> None:
        """Raises StmdeployError (exit code 5) if rows wait that no node can take."""
        missed = [f"{len(q.waiting)} for {q.kind.flag}" for q in self.by_kind.values() if q.waiting]
        if missed:
            raise StmdeployError(
                f"rows are left that no node can take: {', '.join(missed)}",
                "bring a node back, then go on with --resume --cluster ADDRESS",
                ExitCode.WORKER_FAILED,
                FailureKind.DEVICE,
            )
