"""A fleet without machines: nodes whose rows take as long as a test says, on a clock of their own.

It keeps the promise that a cluster keeps, one task at a time on a node, and remembers who ran
what and when, so that a test can see what the dispatcher made of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stmdeploy.cluster.facts import NodeFacts, NodeGpu
from stmdeploy.cluster.fleet import Handle, Lost, Node, Place
from stmdeploy.errors import Failure
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.sweeps.cluster.documents import (
    BlockAnswer,
    BlockTask,
    RowAnswer,
    RowTask,
)
from tests.fakes import TEST_ENVIRONMENT


def environment(**versions: str) -> Environment:
    """Of a machine that exists nowhere."""
    return Environment.model_validate({**TEST_ENVIRONMENT, "versions": versions})


def facts(*gpus: str, sliced: bool = False, **versions: str) -> NodeFacts:
    """What a node with some GPUs says."""
    return NodeFacts(
        environment=environment(**versions),
        gpus=tuple(NodeGpu(name=name, sliced=sliced) for name in gpus),
        unavailable={},
    )


def nodes(**kinds: int) -> tuple[Node, ...]:
    """So many of every accelerator type, named after it."""
    return tuple(
        Node(f"{kind}-{i}".ljust(16, "0"), f"{kind}-{i}", frozenset({kind}), gpus=1)
        for kind, count in kinds.items()
        for i in range(count)
    )


@dataclass(frozen=True)
class Ran:
    """One task on one node, in seconds of the simulated clock; ``ended`` None: lost."""

    task: BlockTask
    node: Node
    started: float
    ended: float | None


@dataclass(eq=False)
class _Task:
    task: BlockTask
    place: Place


#: What comes of a row on a node, as an answer of it alone, and how many seconds it takes; None: the
#: node dies of it.
Outcome = Callable[[RowTask, Node], tuple[float, BlockAnswer | None]]


@dataclass
class SimulatedFleet:
    """See `Fleet`. ``outcome`` says what comes of a row; a block takes as long as its rows."""

    alive: list[Node]
    outcome: Outcome
    said: dict[str, NodeFacts | str] = field(default_factory=dict)
    now: float = 0.0
    ran: list[Ran] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    most_in_hand: int = 0
    keep: bool = True
    on_tick: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._waiting: deque[_Task] = deque()
        self._late: dict[str, float] = {}
        self._busy: dict[str, tuple[float, Node, _Task, BlockAnswer | None, float]] = {}

    def nodes(self) -> tuple[Node, ...]:
        return tuple(self.alive)

    def survey(self, nodes: Sequence[Node]) -> dict[str, NodeFacts | str]:
        return {node.id: self.said.get(node.id, facts()) for node in nodes}

    def share(self, sha256: str, path: Path) -> None:
        assert path.is_file()
        self.shared.append(sha256)

    def start(self, task: BlockTask, place: Place, payload: bytes = b"") -> Handle:  # noqa: ARG002
        handle = _Task(task, place)
        self._waiting.append(handle)
        self.most_in_hand = max(self.most_in_hand, len(self._waiting) + len(self._busy))
        return handle

    def _assign(self) -> None:
        for node in self.alive:
            if node.id in self._busy or self._late.get(node.id, 0.0) > self.now:
                continue
            for handle in self._waiting:
                place = handle.place
                fits = place.accelerator_type in node.accelerator_types
                if fits and node.id not in place.avoided:
                    self._waiting.remove(handle)
                    seconds, answer = self._outcome_of(handle.task, node)
                    self._busy[node.id] = (self.now + seconds, node, handle, answer, self.now)
                    break

    def _outcome_of(self, task: BlockTask, node: Node) -> tuple[float, BlockAnswer | None]:
        found = [self.outcome(row, node) for row in task.rows]
        answers = [answer for _, answer in found if answer is not None]
        seconds = sum(seconds for seconds, _ in found)
        if len(answers) < len(found):
            return seconds, None
        rows = tuple(row for answer in answers for row in answer.rows)
        return seconds, answers[0].model_copy(update={"rows": rows})

    def wait(
        self, started: Collection[Handle], timeout_s: float
    ) -> list[tuple[Handle, BlockAnswer | Lost]]:
        self.on_tick()
        self._assign()
        due = min(self._busy.values(), key=lambda entry: entry[0], default=None)
        if due is None or due[0] > self.now + timeout_s:
            self.now += timeout_s
            return []
        ended, node, handle, answer, began = due
        assert handle in started
        self.now = ended
        del self._busy[node.id]
        if self.keep:
            self.ran.append(Ran(handle.task, node, began, ended if answer else None))
        if answer is None:
            self.alive.remove(node)
            return [(handle, Lost("NodeDiedError: the node is dead"))]
        return [(handle, answer)]

    def busy_first(self, node: Node) -> None:
        """Keeps a node that joins from being given a row before anybody has looked at it."""
        self._late[node.id] = self.now + 11.0

    def kill(self, name: str) -> None:
        """The node dies now, with what it is doing."""
        node = next(node for node in self.alive if node.name == name)
        if node.id in self._busy:
            _, _, handle, _, began = self._busy[node.id]
            self._busy[node.id] = (self.now, node, handle, None, began)
        else:
            self.alive.remove(node)

    def cancel(self, started: Collection[Handle]) -> None:
        self._waiting = deque(handle for handle in self._waiting if handle not in started)
        self._busy = {id: e for id, e in self._busy.items() if e[2] not in started}

    def close(self) -> None:
        self._waiting.clear()


def answered(
    node: Node, *processes: ProcessRun, failure: Failure | None = None, misplaced: str = ""
) -> BlockAnswer:
    """A node's answer about one row."""
    return BlockAnswer(
        node_id=node.id,
        node=node.label,
        started_utc="2026-01-01T00:00:00",
        ended_utc="2026-01-01T00:00:10",
        environment=environment(onnxruntime="of the node"),
        rows=(RowAnswer(device="Test CPU", processes=processes, failure=failure),),
        misplaced=misplaced,
    )
