"""The roofline bound: the least time that a graph can take on a processor.

Williams, Waterman and Patterson, *Roofline: An Insightful Visual Performance Model for Multicore
Architectures*, CACM 52(4), 2009; with the levels of memory apart (Ilic, Pratas and Sousa,
*Cache-aware Roofline Model*, IEEE CAL 13(1), 2014).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.schema.hardware import Bound, MemoryLevel, Peaks, Rate
from stmdeploy.schema.manifest import Operation
from stmdeploy.spec.units import MS_PER_S

#: What the bound assumes; shown wherever its figures are.
ASSUMPTIONS = (
    "The bound adds up, over the operators that multiply, the larger of two times: their "
    "multiplications at the peak rate of the precision (or of float32, if that is higher), and "
    "their bytes at the bandwidth of the level of memory that holds them. Operators run one after "
    "another; each reads its inputs and writes its outputs once. Norms, activations, softmax, "
    "copies, the logits inside an attention, and starting operators cost nothing. Weights stay in "
    "the caches between inferences as far as they fit; the rest comes while products keep the "
    "processor busy, as far as that lasts."
)
#: Bytes of an element, the least that a runtime can move in a precision.
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int8-dynamic": 1, "fp8": 1}
#: The rate that a precision needs, then others it may run at; by default its own and float32's.
_RATES = {"int8-dynamic": ("int8", "fp32")}


def bound(operations: Sequence[Operation], batch: int, precision: str, peaks: Peaks) -> Bound:
    """The least time of one inference of a graph; see `ASSUMPTIONS`.

    Args:
        operations: the graph's, counted for one image.
        batch: images per inference.
        precision: what the artifact computes in.
        peaks: the most that the processor can do.

    Raises:
        StmdeployError: the peaks have no rate for the precision.
    """
    rate, size = rate_of(precision, peaks), _BYTES[precision]
    weights = sum(size * op.weight_elements * op.nodes for op in operations)
    # Weights that no cache keeps between two inferences are read again. Which ones these are is
    # free to choose, and reading them is hidden while their operator is busy multiplying.
    missing_ms = MS_PER_S * memory_s(weights, peaks.memory)
    slowest = _speed_at(weights, peaks.memory)
    total, compute, memory, hidden = 0.0, 0.0, missing_ms, 0.0
    parts: defaultdict[str, float] = defaultdict(float)
    for op in operations:
        compute_ms = MS_PER_S * 2 * op.macs * batch / (rate.tflops * 1e12)
        acts_ms = MS_PER_S * memory_s(size * op.activation_elements * batch, peaks.memory)
        own_ms = MS_PER_S * size * op.weight_elements / slowest if slowest else 0.0
        compute += op.nodes * compute_ms
        memory += op.nodes * acts_ms
        total += op.nodes * max(compute_ms, acts_ms)
        hidden += op.nodes * min(own_ms, max(0.0, compute_ms - acts_ms))
        parts[op.part] += op.nodes * max(compute_ms, acts_ms)
    shown_ms = max(0.0, missing_ms - hidden)
    for op in operations if shown_ms else ():
        parts[op.part] += shown_ms * size * op.weight_elements * op.nodes / weights
    total += shown_ms
    return Bound(
        bound_ms=total,
        compute_ms=compute,
        memory_ms=memory,
        macs=sum(op.nodes * op.macs * batch for op in operations),
        bytes=sum(
            size * op.nodes * (op.weight_elements + op.activation_elements * batch)
            for op in operations
        ),
        parts_ms=dict(parts),
        rate=rate,
        peaks=peaks,
    )


def rate_of(precision: str, peaks: Peaks) -> Rate:
    """The highest rate that products of a precision can run at.

    Raises:
        StmdeployError: the peaks have no rate for the precision.
    """
    own, *others = _RATES.get(precision, (precision, "fp32"))
    usable = [rate for rate in peaks.rates if rate.precision in (own, *others)]
    if not any(rate.precision == own for rate in usable):
        raise StmdeployError(
            f"{peaks.source} has no rate for {own}",
            f"choose one of: {', '.join(dict.fromkeys(rate.precision for rate in peaks.rates))}",
        )
    return max(usable, key=lambda rate: rate.tflops)


def _speed_at(size: float, memory: Sequence[MemoryLevel]) -> float:
    """Bytes a second of the level that the last of `size` bytes comes from; 0 if it is free."""
    return next((level.gb_s or 0.0) * 1e9 for level in memory if size <= _end_bytes(level))


def _end_bytes(level: MemoryLevel) -> float:
    return float("inf") if level.up_to_mib is None else level.up_to_mib * BYTES_PER_MIB


def memory_s(size: float, memory: Sequence[MemoryLevel]) -> float:
    """Seconds to read `size` bytes: the first ones come from the first level, what it cannot hold
    from the next."""
    seconds, below = 0.0, 0.0
    for level in memory:
        end = _end_bytes(level)
        here = max(0.0, min(size, end) - below)
        seconds += here / (level.gb_s * 1e9) if level.gb_s else 0.0
        below = end
    return seconds
