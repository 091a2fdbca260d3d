"""A sweep: which rows are measured, and in what order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Self

from pydantic import TypeAdapter

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import parse_document
from stmdeploy.spec.export import CalibrationSpec, EngineSpec
from stmdeploy.spec.limits import at_least, at_most, positive
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import EXPORT_TIMEOUT_S, ROW_TIMEOUT_S, RunSpec, SamplingSpec

_AGAIN = "measure again: stmdeploy profile"
#: What rows are compared with, unless a sweep says what: the mixer with the plainest operators.
USUAL_REFERENCE = "convnext"
_MOST_REPEATS = 20


class _Stored:
    """A specification that is stored as JSON."""

    @classmethod
    @cache
    def _adapter(cls) -> TypeAdapter[Any]:
        """Cached, because building one takes longer than using it."""
        return TypeAdapter(cls)

    def to_json(self) -> str:
        """JSON for `from_json`."""
        return self._adapter().dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Reads what `to_json` wrote.

        Args:
            where: the text as errors name it.

        Raises:
            StmdeployError: it is damaged.
        """
        found: Self = parse_document(cls._adapter().validate_json, text, where, _AGAIN)
        return found


@dataclass(frozen=True)
class RowSpec(_Stored):
    """One row: a model and how it is run, its precision included; copies of a row differ in the
    number `repeat`."""

    model: ModelSpec
    run: RunSpec
    repeat: int = 0

    @property
    def name(self) -> str:
        """``MODEL/RUNTIME/PRECISION/batchN``; rows that differ in something else share it."""
        run, again = self.run, f"/repeat{self.repeat}" if self.repeat else ""
        return f"{self.model.label}/{run.runtime}/{run.precision}/batch{run.batch}{again}"

    @property
    def key(self) -> str:
        """A hash of the specification: the same row has the same key in every sweep. Defaults are
        left out, so that a new one does not change the keys of rows that know nothing of it."""
        told = self._adapter().dump_json(self, exclude_defaults=True)
        return hashlib.sha256(told).hexdigest()[:32]


@dataclass(frozen=True)
class SweepSpec(_Stored):
    """Rows to measure: every model in every precision with every run.

    Attributes:
        models, precisions, runs: the rows are all combinations of these.
        sampling: when a row has been measured enough.
        lowering, calibration, engine: as in `ExportSpec`.
        row_timeout_s: how long after its share of the budget a worker is ended.
        export_timeout_s: after how long the exports of a model are ended.
        memory_limit_mib: memory that a worker may allocate; None for most of what is free.
        explain: whether to find each row's roofline bound and where its time goes, too.
        smaller_batch: whether to add a row with half the batch when one runs out of memory.
        reference: words of the name of the row that others are compared with, as `names` takes
            them; empty for convnext, or else the first row.
        repeats: how often every row stands in the sweep. Copies of a row show how far apart rows
            are that do not differ.
        left_out: runtimes with a precision that they do not have.
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
    reference: str = ""
    repeats: int = 1
    left_out: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        positive(self.row_timeout_s, "row timeout")
        positive(self.export_timeout_s, "export timeout")
        if self.memory_limit_mib is not None:
            at_least(64, self.memory_limit_mib, "memory limit in MiB")
        at_least(1, self.repeats, "repeats")
        at_most(_MOST_REPEATS, self.repeats, "repeats")

    @property
    def nodes(self) -> tuple[str, ...]:
        """The kinds of cluster nodes that the rows are for; empty for this machine."""
        return tuple(dict.fromkeys(run.node for run in self.runs if run.node))

    def rows(self) -> tuple[RowSpec, ...]:
        """The rows in table order, without repetitions."""
        combined = (
            RowSpec(model, replace(run, precision=precision), repeat)
            for model in self.models
            for precision in (model.file.precisions if model.file else self.precisions)
            for run in self.runs
            if self._has(model, run, precision)
            for repeat in range(self.repeats)
        )
        return tuple(dict.fromkeys(combined))

    def _has(self, model: ModelSpec, run: RunSpec, precision: str) -> bool:
        if model.file is not None:
            return model.file.takes(run.runtime, precision, run.batch)
        return (run.runtime, precision) not in self.left_out

    def reference_of(self, rows: Sequence[RowSpec]) -> RowSpec | None:
        """The first of some rows that is named as reference and takes turns; None if none does."""
        turning = [row for row in rows if row.run.by_turns]
        words = self.reference or USUAL_REFERENCE
        named = [row for row in turning if names(words, row.name)]
        return next(iter((*named, *([] if self.reference else turning))), None)

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """As for any specification; one without rows is refused too."""
        spec = super().from_json(text, where)
        if not (spec.models and spec.runs and spec.precisions):
            raise StmdeployError(f"{where} has no rows", _AGAIN)
        return spec


def names(words: str, name: str) -> bool:
    """Whether words, with blanks or slashes between, all occur in the name of a row."""
    return all(word in name for word in words.replace("/", " ").split())


def shuffled(positions: list[int], sweep: str, turn: int) -> list[int]:
    """The rows of one round in random order, the same whenever the sweep is resumed.

    Every round measures one process of every row, so that a machine that slows down slows all of
    them alike.
    """
    order = list(positions)
    random.Random(f"{sweep} {turn}").shuffle(order)
    return order
