"""Roofline bounds of models on processors, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stmdeploy.hardware.roofline import ASSUMPTIONS, bound
from stmdeploy.report.profile_table import peaks_in_words
from stmdeploy.report.text_table import TextTable, significant
from stmdeploy.schema.hardware import Bound, Peaks
from stmdeploy.schema.manifest import Operation
from stmdeploy.spec.units import MS_PER_S


@dataclass(frozen=True)
class Processor:
    """A processor, its peaks, and the batches and precisions of its bounds by default."""

    name: str
    title: str
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    peaks: Peaks


@dataclass(frozen=True)
class Workload:
    """A model and its operations; ``precision`` is empty where it can run in any."""

    model: str
    operations: tuple[Operation, ...]
    precision: str = ""


@dataclass(frozen=True)
class BoundEntry:
    """The bound of one model on one processor."""

    model: str
    processor: Processor
    batch: int
    precision: str
    bound: Bound

    @property
    def images_s(self) -> float:
        """Throughput at the bound, in images per second."""
        return MS_PER_S * self.batch / self.bound.bound_ms

    def figures(self) -> dict[str, Any]:
        """Everything as a JSON document."""
        return {
            "model": self.model,
            "processor": self.processor.name,
            "batch": self.batch,
            "precision": self.precision,
            "bound_images_s": self.images_s,
            **self.bound.model_dump(),
        }


def bounds_of(
    workloads: Sequence[Workload],
    processors: Sequence[Processor],
    batches: Sequence[int],
    precisions: Sequence[str],
) -> list[BoundEntry]:
    """Every workload on every processor; batches and precisions default to the processor's own.

    Raises:
        StmdeployError: a processor has no rate for a precision.
    """
    return [
        BoundEntry(
            workload.model, processor, batch, precision,
            bound(workload.operations, batch, precision, processor.peaks),
        )
        for processor in processors
        for workload in workloads
        for precision in (
            [workload.precision] if workload.precision else precisions or processor.precisions
        )
        for batch in batches or processor.batches
    ]  # fmt: skip


def bound_table(entries: Sequence[BoundEntry]) -> TextTable:
    """One line per bound; the notes say what it rests on."""
    headers = (
        "model", "processor", "precision", "batch", "bound ms", "bound images/s",
        "compute alone ms", "memory alone ms", "GMACs", "MB",
    )  # fmt: skip
    cells = tuple(
        (
            entry.model,
            entry.processor.name,
            entry.precision,
            str(entry.batch),
            significant(entry.bound.bound_ms),
            significant(entry.images_s),
            significant(entry.bound.compute_ms),
            significant(entry.bound.memory_ms),
            significant(entry.bound.macs / 1e9),
            significant(entry.bound.bytes / 1e6),
        )
        for entry in entries
    )
    peaks = {
        entry.processor.name: f"{entry.processor.title}: {peaks_in_words(entry.bound.peaks)}."
        for entry in entries
    }
    return TextTable(
        headers,
        cells,
        left=3,
        notes=("Bound, not measured.", *peaks.values(), ASSUMPTIONS),
        keys=4,
        drop_first=("MB", "GMACs", "memory alone ms", "compute alone ms"),
    )
