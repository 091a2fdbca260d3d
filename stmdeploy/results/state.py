"""The progress of a sweep and its rows: planned, being measured, done or failed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row
from stmdeploy.spec.sweep import RowSpec

PLANNED, MEASURING, DONE, FAILED = "planned", "measuring", "done", "failed"


@dataclass(frozen=True)
class SweepInfo:
    """A sweep in short: when it was started, and how many of its rows are in each state."""

    id: str
    created_utc: str
    states: dict[str, int]

    @property
    def unfinished(self) -> int:
        """How many rows are still to be measured."""
        return self.states.get(PLANNED, 0) + self.states.get(MEASURING, 0)


@dataclass(frozen=True)
class PlannedRow:
    """A planned row: its position in the sweep, its specification as JSON, and its state."""

    position: int
    key: str
    spec: str
    state: str

    @property
    def row(self) -> RowSpec:
        """The parsed specification.

        Raises:
            StmdeployError: it is damaged.
        """
        return RowSpec.from_json(self.spec, f"row {self.position} of the sweep")


@dataclass(frozen=True)
class Measured:
    """New processes of a row, numbered from `first`, and the row's figures with them."""

    position: int
    first: int
    processes: tuple[ProcessRun, ...]
    row: Row
    state: str


def now_utc() -> str:
    """The time now, UTC, as a sortable ISO 8601 string."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
