"""How far a sweep and its rows have come: planned, being measured, done or failed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from stmdeploy.spec.sweep import RowSpec

PLANNED, MEASURING, DONE, FAILED = "planned", "measuring", "done", "failed"


@dataclass(frozen=True)
class SweepInfo:
    """A sweep in a line: when it was begun, and how many of its rows are in which state."""

    id: str
    created_utc: str
    states: dict[str, int]

    @property
    def unfinished(self) -> int:
        """How many rows are still to be measured."""
        return self.states.get(PLANNED, 0) + self.states.get(MEASURING, 0)


@dataclass(frozen=True)
class PlannedRow:
    """A row as planned: where it stands, its spec as JSON, and its state."""

    position: int
    key: str
    spec: str
    state: str

    @property
    def row(self) -> RowSpec:
        """What the row is.

        Raises:
            StmdeployError: its spec is damaged.
        """
        return RowSpec.from_json(self.spec, f"row {self.position} of the sweep")


def now_utc() -> str:
    """The time, sortable."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
