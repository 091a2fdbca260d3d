"""Which of the measured rows to choose: those that keep all limits, the best of them first.

Pure: rows and limits in, choices and their reasons out. A limit is kept when the whole 95 %
interval keeps it; a row whose interval crosses a limit is not certain, and never a choice. Of two
rows that took turns, neither is faster if their ratio's interval holds 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum

from stmdeploy.report.ratios import contrast_of
from stmdeploy.schema.measurement import Measurement
from stmdeploy.schema.row import Row
from stmdeploy.spec.limits import positive
from stmdeploy.spec.model import DETECTION


class Kept(IntEnum):
    """Whether a row keeps a limit, from the best to the worst answer."""

    YES = 0
    NOT_CERTAIN = 1
    NOT_KNOWN = 2
    NO = 3


@dataclass(frozen=True)
class Limits:
    """What is asked of a row, as positive numbers; None asks nothing.

    Latency is of one inference of the whole batch; memory is the GPU's, or on a CPU the worker's;
    top-1 is the measured one, or else the published; AP is published, of detection backbones;
    consistency is the measured one, to whatever transforms it was measured to.

    Raises:
        StmdeployError: a number is not positive.
    """

    max_latency_ms: float | None = None
    min_throughput_images_s: float | None = None
    max_memory_mib: float | None = None
    max_energy_j_per_image: float | None = None
    min_top1_percent: float | None = None
    min_box_ap_percent: float | None = None
    min_mask_ap_percent: float | None = None
    min_consistency_percent: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                positive(value, field.name.replace("_", " "))


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval; ``kind`` says where it comes from."""

    value: float
    low: float
    high: float
    kind: str = "measured"


@dataclass(frozen=True)
class Judged:
    """A row, and for every limit that was asked whether it keeps it."""

    row: Row
    limits: dict[str, Kept]

    @property
    def kept(self) -> Kept:
        """The worst answer of all limits; YES without limits."""
        return max(self.limits.values(), default=Kept.YES)


@dataclass(frozen=True)
class Recommendation:
    """``choices``: rows that keep all limits and that no other one on the same device beats in
    accuracy, latency and throughput together, the most accurate first. ``runners_up``: the others
    that keep them, then those that are not certain. ``left_out``: the rest."""

    choices: tuple[Judged, ...]
    runners_up: tuple[Judged, ...]
    left_out: tuple[Judged, ...]


def accuracy_of(row: Row) -> Figure | None:
    """A row's accuracy in per cent: top-1, or for a detection backbone the box AP."""
    if row.task == DETECTION:
        return _exactly(row.published_box_ap_percent, "published")
    return top1_of(row)


def top1_of(row: Row) -> Figure | None:
    """A row's top-1 in per cent, measured or else published; an accuracy measured with synthetic
    weights does not count."""
    if row.task == DETECTION:
        return None
    found = row.accuracy
    if found is not None and found.weights != "synthetic":
        kind = f"measured, {found.images} images"
        return Figure(found.top1.percent, found.top1.low, found.top1.high, kind)
    return _exactly(row.published_top1_percent, "published")


def consistency_of(row: Row) -> Figure | None:
    """A row's measured consistency in per cent; that of synthetic weights does not count."""
    found = row.invariance
    if found is None or found.weights == "synthetic":
        return None
    value = found.consistency
    kind = f"measured, {found.images} images, {found.transforms}, {found.protocol}"
    return Figure(value.value, value.low, value.high, kind)


def _ap(row: Row, value: float | None) -> Figure | None:
    return _exactly(value, "published") if row.task == DETECTION else None


def _exactly(value: float | None, kind: str = "measured") -> Figure | None:
    """A value whose interval is not known; None for None."""
    return None if value is None else Figure(value, value, value, kind)


def latency_of(m: Measurement) -> Figure:
    """The median of one inference, in milliseconds."""
    return Figure(m.latency_ms_p50, m.latency_ms_p50_low, m.latency_ms_p50_high)


def _throughput_of(m: Measurement) -> Figure:
    """Images per second; LoadGen's has no interval."""
    value, low, high = m.throughput_images_s, m.throughput_images_s_low, m.throughput_images_s_high
    return Figure(value, value if low is None else low, value if high is None else high)


def _over_processes(figure: Figure, m: Measurement) -> Figure:
    """The figure; one process alone knows nothing of what others would take."""
    alone = m.processes == 1 and m.scenario is None
    return replace(figure, low=0.0, high=math.inf) if alone else figure


def memory_mib(m: Measurement) -> float:
    """Peak memory in MiB: on the GPU, or of the worker process where there is none."""
    device = m.device_memory_peak_mib
    return m.memory_peak_mib if device is None else device


#: The figure that every limit is about.
_FIGURES: dict[str, Callable[[Row, Measurement], Figure | None]] = {
    "max_latency_ms": lambda _, m: _over_processes(latency_of(m), m),
    "max_memory_mib": lambda _, m: _exactly(memory_mib(m)),
    "max_energy_j_per_image": lambda _, m: _exactly(m.energy_j_per_image),
    "min_throughput_images_s": lambda _, m: _over_processes(_throughput_of(m), m),
    "min_top1_percent": lambda row, _: top1_of(row),
    "min_box_ap_percent": lambda row, _: _ap(row, row.published_box_ap_percent),
    "min_mask_ap_percent": lambda row, _: _ap(row, row.published_mask_ap_percent),
    "min_consistency_percent": lambda row, _: consistency_of(row),
}


def judged(row: Row, limits: Limits) -> Judged:
    """Whether a measured row keeps the limits."""
    assert row.measurement is not None
    found = {
        name: _kept(figure_of(row, row.measurement), limit, at_most=name.startswith("max_"))
        for name, figure_of in _FIGURES.items()
        if (limit := getattr(limits, name)) is not None
    }
    return Judged(row, found)


def _kept(figure: Figure | None, limit: float, *, at_most: bool) -> Kept:
    if figure is None:
        return Kept.NOT_KNOWN
    ends = [end <= limit if at_most else end >= limit for end in (figure.low, figure.high)]
    if all(ends):
        return Kept.YES
    return Kept.NOT_CERTAIN if any(ends) else Kept.NO


def recommend(rows: Sequence[Row], limits: Limits) -> Recommendation:
    """Chooses among rows; failed and unmeasured ones are passed over."""
    all_judged = sorted(
        (judged(row, limits) for row in rows if row.measurement is not None and not row.failure),
        key=_order,
    )
    keeping = [one for one in all_judged if one.kept is Kept.YES]
    front = _front(keeping)
    others = [one for one in keeping if one not in front]
    uncertain = [one for one in all_judged if one.kept is Kept.NOT_CERTAIN]
    left_out = [one for one in all_judged if one.kept > Kept.NOT_CERTAIN]
    return Recommendation(tuple(front), (*others, *uncertain), tuple(left_out))


def _order(one: Judged) -> tuple[float, float, float]:
    """Sorts the most accurate first, then the fastest, then the highest throughput; rows without
    an accuracy last."""
    accuracy, m = accuracy_of(one.row), one.row.measurement
    assert m is not None
    return (-accuracy.value if accuracy else 0.0, m.latency_ms_p50, -m.throughput_images_s)


def _front(ordered: Sequence[Judged]) -> list[Judged]:
    """Those that no row before them on the same device beats; before a row come, by `_order`, all
    that are as accurate."""
    front: list[Judged] = []
    for one in ordered:
        rivals = [rival for rival in front if rival.row.device_name == one.row.device_name]
        if not any(_beats(rival, one) for rival in rivals):
            front.append(one)
    return front


def _beats(rival: Judged, one: Judged) -> bool:
    """Whether a row that is at least as accurate is as good in latency and throughput, too. Where
    both cannot be told apart, it has to be more accurate."""
    mine, theirs = _order(one), _order(rival)
    between = contrast_of(rival.row, one.row) if rival.row.batch == one.row.batch else None
    if between is None:
        return theirs[1] <= mine[1] and theirs[2] <= mine[2]
    if between.ratio().high < 1.0:
        return theirs[2] <= mine[2]
    return between.ratio().low <= 1.0 and theirs[0] < mine[0]


def told_apart(row: Row, other: Row) -> bool | None:
    """Whether the latencies of two rows differ; None if they took no turns with each other."""
    between = contrast_of(row, other)
    if between is None:
        return None
    ratio = between.ratio()
    return not ratio.low <= 1.0 <= ratio.high
