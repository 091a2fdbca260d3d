"""What a driver needs of a cluster: `ray_fleet` provides it with Ray, tests with a simulation."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from stmdeploy.cluster.facts import NodeFacts
from stmdeploy.schema.document import Document


@dataclass(frozen=True)
class Node:
    """A node that is alive, its accelerator types, and how many GPUs it lends the cluster."""

    id: str
    name: str
    accelerator_types: frozenset[str]
    gpus: int = 0

    @property
    def label(self) -> str:
        """The name, and enough of the id to tell nodes of the same name apart."""
        return f"{self.name} ({self.id[:8]})"


@dataclass(frozen=True)
class Lost:
    """A task without an answer: its node, or the process that ran it, is gone."""

    reason: str


@dataclass(frozen=True)
class Place:
    """Where a task may run. No other task of the driver runs on its node meanwhile.

    Attributes:
        accelerator_type: accelerator type of the nodes.
        gpu: whether the task gets one of the node's GPUs.
        avoided: ids of nodes that it must not run on.
    """

    accelerator_type: str
    gpu: bool
    avoided: frozenset[str] = frozenset()


#: Identifies a task that was started.
Handle = Hashable
TaskT = TypeVar("TaskT", bound=Document, contravariant=True)
AnswerT = TypeVar("AnswerT", bound=Document)


class Fleet(Protocol[TaskT, AnswerT]):
    """Nodes that run tasks of a kind, each node one at a time."""

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that are alive now."""

    def survey(self, nodes: Sequence[Node]) -> dict[str, NodeFacts | str]:
        """What nodes say of themselves, or why they do not answer, by their ids."""

    def share(self, sha256: str, path: Path) -> None:
        """Makes a file available to every node under its hash; repeated calls do nothing."""

    def start(self, task: TaskT, place: Place, payload: bytes = b"") -> Handle:
        """Starts a task, which waits for a free node of its place.

        Args:
            payload: goes with this task alone.
        """

    def wait(
        self, started: Collection[Handle], timeout_s: float
    ) -> list[tuple[Handle, AnswerT | Lost]]:
        """Waits for at least one task to end; returns those that have, none after a timeout."""

    def cancel(self, started: Collection[Handle]) -> None:
        """Cancels tasks, running ones too."""

    def close(self) -> None:
        """Disconnects from the cluster."""
