"""Peaks: the best of every library, whatever the order; and levels of memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stmdeploy.measure.clock import HostClock
from stmdeploy.measure.peaks import (
    FOOTPRINTS_MIB,
    SIZES,
    Candidate,
    levels,
    measure_peaks,
    merged,
    numpy_product,
)
from stmdeploy.plugins.exporter import ProductMaker
from stmdeploy.plugins.registry import exporters
from stmdeploy.spec.run import RunSpec
from tests.fakes import FakeClock


def candidate(clock: FakeClock, by: str, precision: str, gflop_s: float) -> Candidate:
    """A library whose products take exactly as long as its rate says."""

    def make(size: int) -> Callable[[], None]:
        return lambda: clock.advance_ms(2 * size**3 / gflop_s / 1e6)

    return Candidate(by, precision, make)


class RealCopies(FakeClock):
    """A fake clock that copies move too, or measuring them would never end: by so much a look."""

    def __init__(self, look_ms: float = 1.0) -> None:
        super().__init__()
        self.look_ms = look_ms

    def now_ns(self) -> int:
        self.advance_ms(self.look_ms)
        return self.ns


def test_the_best_library_counts_in_every_precision() -> None:
    clock = RealCopies()
    found = measure_peaks(
        [
            candidate(clock, "slow", "fp32", 100),
            candidate(clock, "fast", "fp32", 200),
            candidate(clock, "slowest", "fp32", 50),
            candidate(clock, "slow", "fp16", 50),
            Candidate("none", "fp16", lambda _: None),
        ],
        1,
        clock,
    )
    best = {rate.precision: rate for rate in found.rates}
    assert {key: rate.by for key, rate in best.items()} == {"fp32": "fast", "fp16": "slow"}
    # The clock itself takes a millisecond a look, of a product of 86 ms.
    assert best["fp32"].tflops == pytest.approx(0.2, rel=0.02)
    assert best["fp16"].tflops == pytest.approx(0.05, rel=0.02)
    assert [level.up_to_mib for level in found.memory] == [*FOOTPRINTS_MIB[1:], None]


def test_levels_never_get_faster_with_size() -> None:
    found = levels([(1, 80.0), (4, 120.0), (16, 50.0), (64, 60.0)])
    assert [(level.up_to_mib, level.gb_s) for level in found] == [
        (4, 120.0), (16, 120.0), (64, 60.0), (None, 60.0),
    ]  # fmt: skip


def test_merged_peaks_are_the_higher_of_both() -> None:
    clock = RealCopies(look_ms=20.0)
    low, high = (
        measure_peaks([candidate(clock, by, "fp32", rate)], 1, clock)
        for by, rate in (("a", 100), ("b", 150))
    )
    both = merged(low, high)
    assert both.rates == high.rates
    assert merged(high, low) == both.model_copy(update={"source": high.source})
    assert all(
        (level.gb_s or 0) >= max(a.gb_s or 0, b.gb_s or 0)
        for level, a, b in zip(both.memory, low.memory, high.memory, strict=True)
    )


def test_a_library_without_real_kernels_is_not_waited_for() -> None:
    """16 bits that a processor lacks are computed one by one: at 2048 for minutes."""
    clock, sizes = RealCopies(look_ms=20.0), list[int]()
    slow = candidate(clock, "emulated", "bf16", 1.0)

    def noted(size: int) -> Callable[[], object] | None:
        sizes.append(size)
        return slow.make(size)

    found = measure_peaks([Candidate("emulated", "bf16", noted)], 1, clock)
    assert sizes == [SIZES[0]]
    assert found.rates[0].tflops == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_every_runtime_multiplies_or_says_that_it_does_not(precision: str) -> None:
    having = set()
    for exporter in exporters().values():
        run = RunSpec(exporter.target.runtimes[0], 1, 1, precision=precision)
        if not isinstance(exporter, ProductMaker):
            continue
        product = exporter.product(run, 64)
        if product is not None:
            product()
            having.add(exporter.target.name)
    wanted = {"fp32": "onnx openvino torch", "fp16": "onnx openvino torch",
              "bf16": "openvino torch", "int8": "onnx"}  # fmt: skip
    assert having == set(wanted[precision].split())


def test_this_processor_multiplies_and_copies() -> None:
    found = measure_peaks([Candidate("numpy", "fp32", numpy_product)], 1, HostClock())
    (rate,) = found.rates
    assert rate.tflops > 1e-4
    assert all(level.gb_s and level.gb_s > 0.1 for level in found.memory)
    assert len(SIZES) > 1
