"""The most this processor can do: matrix products in every library at hand, and copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.measure.clock import Clock
from stmdeploy.measure.sampling import timed
from stmdeploy.schema.hardware import MemoryLevel, Peaks, Rate
from stmdeploy.spec.units import NS_PER_S

#: Sides of the square matrices, small enough for caches and large enough for their kernels.
SIZES = (512, 1024, 2048)
#: MiB that a copy touches, reading and writing together.
FOOTPRINTS_MIB = (1, 4, 16, 64, 256)
#: Each product or copy is repeated for so many seconds, and at least so many times.
_BUDGET_S, _MIN_REPEATS = 0.1, 4
#: A product that would take longer is no peak: a library that has 16 bits only in name, on a
#: processor without them, does a thousandth of what others do.
_LONGEST_S = 0.5


@dataclass(frozen=True)
class Candidate:
    """A library, ``by``, that may be the fastest at products in a precision.

    ``make`` prepares the product of two square matrices of a given side; None if the library has
    no such product.
    """

    by: str
    precision: str
    make: Callable[[int], Callable[[], object] | None]


def measure_peaks(candidates: Iterable[Candidate], threads: int, clock: Clock) -> Peaks:
    """Measures the best rate of every precision, and the bandwidth of copies by the MiB they touch.

    Peaks, not typical figures: the fastest run of every product and copy counts.
    """
    rates: list[Rate] = []
    for candidate in candidates:
        tflops: float | None = None
        for size in SIZES:
            if tflops and 2 * size**3 / (1e12 * tflops) > _LONGEST_S:
                break
            tflops = _tflops(candidate, size, clock)
            if tflops is None:
                break
            rates.append(Rate(precision=candidate.precision, tflops=tflops, by=candidate.by))
    speeds = [(size, _copy_gb_s(size, threads, clock)) for size in FOOTPRINTS_MIB]
    return Peaks(
        kind="measured",
        source=f"products and copies with {threads} threads",
        rates=_best(rates),
        memory=levels(speeds),
    )


def _tflops(candidate: Candidate, size: int, clock: Clock) -> float | None:
    """The best TFLOP/s of a product; None if the library has no such product or fails at it."""
    try:
        product = candidate.make(size)
        return 2 * size**3 / _fastest_s(product, clock) / 1e12 if product else None
    except Exception:  # noqa: BLE001  (every engine has exceptions of its own)
        return None


def levels(speeds: Sequence[tuple[float, float]]) -> tuple[MemoryLevel, ...]:
    """Turns growing footprints in MiB, each with its bandwidth in GB/s, into levels of memory.

    A size between two footprints may be as fast as the smaller one; a smaller size is never slower
    than a larger one.
    """
    ends = [*(size for size, _ in speeds[1:]), None]
    return tuple(
        MemoryLevel(up_to_mib=end, gb_s=max(speed for _, speed in speeds[i:]))
        for i, end in enumerate(ends)
    )


def merged(first: Peaks, second: Peaks) -> Peaks:
    """Combines two measured peaks of one processor: of every figure the higher one."""
    memory = tuple(
        max(pair, key=lambda level: level.gb_s or 0.0)
        for pair in zip(first.memory, second.memory, strict=True)
    )
    rates = _best([*first.rates, *second.rates])
    return first.model_copy(update={"rates": rates, "memory": memory})


def _best(rates: Iterable[Rate]) -> tuple[Rate, ...]:
    """The highest rate of every precision; of equal ones the first."""
    best: dict[str, Rate] = {}
    for rate in rates:
        if rate.precision not in best or best[rate.precision].tflops < rate.tflops:
            best[rate.precision] = rate
    return tuple(best.values())


def _fastest_s(work: Callable[[], object], clock: Clock) -> float:
    work()
    fastest, spent_ns, repeats = float("inf"), 0, 0
    while repeats < _MIN_REPEATS or spent_ns < _BUDGET_S * NS_PER_S:
        taken_ns = timed(work, clock)
        fastest = min(fastest, taken_ns / NS_PER_S)
        spent_ns, repeats = spent_ns + taken_ns, repeats + 1
    return max(fastest, 1 / NS_PER_S)


def _copy_gb_s(size_mib: float, threads: int, clock: Clock) -> float:
    import torch

    torch.set_num_threads(threads)
    half = int(size_mib * BYTES_PER_MIB / 2)
    source, copy = (torch.ones(half // 4) for _ in range(2))
    both = torch.ones(half // 2)
    # Weights are read alone, which may be faster than reading and writing.
    fastest = min(_fastest_s(w, clock) for w in (lambda: copy.copy_(source), both.sum))
    return 2 * half / fastest / 1e9


def numpy_product(size: int) -> Callable[[], object]:
    """Prepares NumPy's float32 product of two square matrices, done by the BLAS it came with."""
    import numpy as np

    left, right, out = (np.ones((size, size), np.float32) for _ in range(3))
    return lambda: np.matmul(left, right, out=out)
