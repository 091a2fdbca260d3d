"""What the driver needs of a cluster; `ray_fleet` is the real one, tests have a simulated one."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stmdeploy.sweeps.cluster.documents import NodeFacts, RowAnswer, RowTask


@dataclass(frozen=True)
class Node:
    """A node that is alive, the accelerator types that it carries, and how many GPUs it lends."""

    id: str
    name: str
    accelerator_types: frozenset[str]
    gpus: int = 0

    @property
    def label(self) -> str:
        """Its name, and enough of its id to tell it from others of that name."""
        return f"{self.name} ({self.id[:8]})"


@dataclass(frozen=True)
class Lost:
    """A task that gave no answer: its node is gone, or the process that ran it."""

    reason: str


@dataclass(frozen=True)
class Place:
    """Where a task may run: nodes of an accelerator type, less some by their ids.

    ``gpu``: whether it gets one of the node's GPUs for itself. In any case nothing else of ours
    runs on the node meanwhile.
    """

    accelerator_type: str
    gpu: bool
    avoided: frozenset[str] = frozenset()


#: A task that was started.
Handle = Hashable


class Fleet(Protocol):
    """Nodes that run tasks, each node one at a time."""

    def nodes(self) -> tuple[Node, ...]:
        """Those that are alive now."""

    def survey(self, nodes: Sequence[Node]) -> dict[str, NodeFacts | str]:
        """What nodes say of themselves by their ids; why not, where one does not."""

    def share(self, sha256: str, path: Path) -> None:
        """Makes a file's content known to every node, under its hash; once is enough."""

    def start(self, task: RowTask, place: Place) -> Handle:
        """Hands a task out; it waits for a free node of its place."""

    def wait(
        self, started: Collection[Handle], timeout_s: float
    ) -> list[tuple[Handle, RowAnswer | Lost]]:
        """Those that have ended, at least one unless the time is over first."""

    def cancel(self, started: Collection[Handle]) -> None:
        """Gives tasks up."""

    def close(self) -> None:
        """Lets go of the cluster."""
