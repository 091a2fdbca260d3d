"""Rows that wait for nodes or are in their hands, and the nodes as they come and go."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from stmdeploy.errors import ExitCode, FailureKind, StmdeployError
from stmdeploy.plugins.progress import Progress
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.sweeps.cluster.fleet import Fleet, Handle, Node, Place
from stmdeploy.sweeps.cluster.kinds import Kind, why_not
from stmdeploy.sweeps.cluster.planning import ClusterSpec, Plan

#: How often the nodes are looked at again.
_LOOK_S = 10.0


@dataclass
class Queue:
    """The rows of one kind that are still to be handed out, and where they may go."""

    kind: Kind
    avoided: set[str]
    profile: str
    waiting: deque[int] = field(default_factory=deque)
    running: int = 0
    nodes: int = 0
    none_since: float | None = None

    def places(self, nodes: Iterable[Node]) -> list[Node]:
        """The nodes that its rows may go to."""
        kind = self.kind.accelerator_type
        return [n for n in nodes if kind in n.accelerator_types and n.id not in self.avoided]


@dataclass(frozen=True)
class Running:
    """A row in somebody's hands."""

    queue: Queue
    position: int
    spec: RowSpec
    place: Place
    started_utc: str


class Queues:
    """The queues of a sweep by their kinds, and the rows that are out."""

    def __init__(
        self,
        fleet: Fleet,
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
        self._met = set(plan.facts)
        self._looked = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether rows are left that nobody has finished."""
        return any(queue.waiting or queue.running for queue in self.by_kind.values())

    def take_back(self, handle: Handle) -> Running:
        """A row whose task has ended."""
        running = self.running.pop(handle)
        running.queue.running -= 1
        return running

    def avoid(self, queue: Queue, node_id: str, label: str, reason: str) -> None:
        """Hands a queue's rows to a node no more."""
        queue.avoided.add(node_id)
        self._progress.warn(f"{label} is left out: {reason}")

    def look_soon(self) -> None:
        """The nodes are others now: they are looked at before anything else is handed out."""
        self._looked = -math.inf

    def look(self) -> None:
        """Looks at the nodes, now and then: new ones are met, and rows of lost ones come back."""
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
        """Asks nodes that joined since what they are; those that do not fit are left out."""
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
        """Rows that wait for a node which is gone, and may not go to those that are left."""
        for handle, running in list(self.running.items()):
            kind, avoided = running.place.accelerator_type, running.place.avoided
            of_type = [node for node in nodes if kind in node.accelerator_types]
            if of_type and all(node.id in avoided for node in of_type):
                self._give_up([handle])

    def _give_up(self, handles: list[Handle]) -> None:
        self._fleet.cancel(handles)
        for handle in handles:
            running = self.take_back(handle)
            running.queue.waiting.append(running.position)

    def patience_is_over(self) -> bool:
        """Whether every kind with rows has had no node for too long."""
        now = self._now()
        return all(
            queue.none_since is not None and now - queue.none_since > self._patience_s
            for queue in self.by_kind.values()
            if queue.waiting
        )

    def check_done(self) -> None:
        """Raises StmdeployError (exit code 5) for rows that no node can take."""
        missed = [f"{len(q.waiting)} for {q.kind.flag}" for q in self.by_kind.values() if q.waiting]
        if missed:
            raise StmdeployError(
                f"rows are left that no node can take: {', '.join(missed)}",
                "bring a node back and go on with --resume --cluster ADDRESS",
                ExitCode.WORKER_FAILED,
                FailureKind.DEVICE,
            )
