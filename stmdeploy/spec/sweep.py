"""A sweep: which rows are measured, and in what order."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace
from functools import cache

from pydantic import TypeAdapter

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import parse_document
from stmdeploy.spec.export import CalibrationSpec, EngineSpec
from stmdeploy.spec.limits import at_least, positive
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import EXPORT_TIMEOUT_S, ROW_TIMEOUT_S, RunSpec, SamplingSpec

_AGAIN = "measure again"


@dataclass(frozen=True)
class RowSpec:
    """One row: a model and how it is run, its precision included."""

    model: ModelSpec
    run: RunSpec

    @property
    def key(self) -> str:
        """The same for the same row, in whatever sweep."""
        content = _rows().dump_json(self)
        return hashlib.sha256(content).hexdigest()[:32]

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return _rows().dump_json(self).decode()

    @staticmethod
    def from_json(text: str, where: str) -> RowSpec:
        """Reads what `to_json` wrote.

        Raises:
            StmdeployError: it is damaged; `where` says what it is of.
        """
        return parse_document(_rows().validate_json, text, where, _AGAIN)


@dataclass(frozen=True)
class SweepSpec:
    """Rows to measure: every model in every precision with every run.

    Attributes:
        models, precisions, runs: the rows are all combinations.
        sampling: when a row is measured enough.
        lowering, calibration, engine: as of `ExportSpec`.
        row_timeout_s: a worker is ended so long after its share of the budget.
        export_timeout_s: the exports of a model are ended after so long.
        memory_limit_mib: what a worker may allocate; None for what the machine has free.
        explain: whether the bound of every row, and where its time goes, are found out too.
        smaller_batch: whether a row that runs out of memory is followed by half its batch.
    """

    models: tuple[ModelSpec, ...]
    runs: tuple[RunSpec, ...]
    precisions: tuple[str, ...] = ("fp32",)
    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    lowering: str | None = None
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    engine: EngineSpec = field(default_factory=EngineSpec)
    row_timeout_s: float = ROW_TIMEOUT_S
    export_timeout_s: float = EXPORT_TIMEOUT_S
    memory_limit_mib: int | None = None
    smaller_batch: bool = False
    explain: bool = True

    def __post_init__(self) -> None:
        positive(self.row_timeout_s, "row timeout")
        positive(self.export_timeout_s, "export timeout")
        if self.memory_limit_mib is not None:
            at_least(64, self.memory_limit_mib, "memory limit in MiB")

    @property
    def nodes(self) -> tuple[str, ...]:
        """The kinds of a cluster's nodes that the rows are for; empty for this machine."""
        return tuple(dict.fromkeys(run.node for run in self.runs if run.node))

    def rows(self) -> tuple[RowSpec, ...]:
        """The rows in the order of the table, each once."""
        combined = (
            RowSpec(model, replace(run, precision=precision))
            for model in self.models
            for precision in self.precisions
            for run in self.runs
        )
        return tuple(dict.fromkeys(combined))

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return _sweeps().dump_json(self).decode()

    @staticmethod
    def from_json(text: str, where: str) -> SweepSpec:
        """Reads what `to_json` wrote.

        Raises:
            StmdeployError: it is damaged; `where` says what it is of.
        """
        spec = parse_document(_sweeps().validate_json, text, where, _AGAIN)
        if not (spec.models and spec.runs and spec.precisions):
            raise StmdeployError(f"{where} has no rows", _AGAIN)
        return spec


@cache
def _rows() -> TypeAdapter[RowSpec]:
    """Made once: that takes longer than what it does."""
    return TypeAdapter(RowSpec)


@cache
def _sweeps() -> TypeAdapter[SweepSpec]:
    return TypeAdapter(SweepSpec)


def shuffled(positions: list[int], sweep: str, turn: int) -> list[int]:
    """The rows of one round, in an order of its own.

    Every round measures one process of every row, so that a machine that slows down slows
    all of them; the same sweep always has the same orders.
    """
    order = list(positions)
    random.Random(f"{sweep} {turn}").shuffle(order)
    return order
