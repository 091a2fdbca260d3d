"""What is tuned: which ways to run a model race, for what, within which limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.export import FULL_PRECISION, CalibrationSpec
from stmdeploy.spec.fidelity import FidelityLimits
from stmdeploy.spec.limits import at_least, at_most, positive
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import EXPORT_TIMEOUT_S, MAX_PROCESSES, ROW_TIMEOUT_S, RunSpec

LATENCY, THROUGHPUT, MEMORY, ENERGY = "latency", "throughput", "memory", "energy"
OBJECTIVES = (LATENCY, THROUGHPUT, MEMORY, ENERGY)
#: What limits of fidelity are surely kept by: fp32 is verified to this relative L2 error.
EXACT = 1e-5


@dataclass(frozen=True)
class RaceSpec:
    """How a race is run.

    Attributes:
        error: probability that the best candidate is lost, or found to be nearer than it is.
        within_percent: the race is over once the leader is surely no worse than the best by more.
        process_budget_s: sampling time of a process, in seconds.
        most_waves: waves at most.
        budget_s: seconds that waves may take altogether; the wave that is running is ended.
        settings: whether settings of the runtimes race, too.
    """

    error: float = 0.05
    within_percent: float = 2.0
    process_budget_s: float = 0.6
    most_waves: int = 20
    budget_s: float = 600.0
    settings: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.error < 0.5:
            raise StmdeployError(f"--error is {self.error:g}", "give a probability below 0.5")
        positive(self.within_percent, "--within-percent")
        positive(self.process_budget_s, "budget of a process")
        positive(self.budget_s, "budget")
        at_least(3, self.most_waves, "number of waves")
        at_most(MAX_PROCESSES, self.most_waves, "number of waves")


@dataclass(frozen=True)
class TuneSpec:
    """One race.

    Attributes:
        model: whose fastest configuration is looked for.
        runs: places to run it at, one for every batch and number of requests in flight that may
            win; their runtime and precision are replaced.
        folder: keeps artifacts and waves.
        runtimes, precisions, lowerings: what may win; empty for all that can be used here.
        threads: numbers of threads that may win; the first is the usual one.
        objective: one of `OBJECTIVES`.
        limits: what low precisions must keep.
        max_memory_mib: most host memory of a process; on a GPU, of the GPU. None for any.
        data: photographs: some set scales, others test what is kept; None for noise.
        held_out: photographs that test, at most.
        calibration: images that set scales.
        seed: by which photographs are parted, and turns are drawn.
    """

    model: ModelSpec
    runs: tuple[RunSpec, ...]
    folder: Path
    runtimes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    lowerings: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1,)
    objective: str = LATENCY
    limits: FidelityLimits = field(default_factory=FidelityLimits)
    max_memory_mib: int | None = None
    data: DataSpec | None = None
    held_out: int = 1024
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    seed: int = 0
    race: RaceSpec = field(default_factory=RaceSpec)
    export_timeout_s: float = EXPORT_TIMEOUT_S
    row_timeout_s: float = ROW_TIMEOUT_S

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            hint = nearest(self.objective, OBJECTIVES)
            raise StmdeployError(f"unknown objective {self.objective!r}", hint)
        if len(self.runs) > 1 and self.objective == LATENCY:
            raise StmdeployError(
                "the latency of different batches, or of requests in flight, is not compared",
                "give --objective throughput",
            )
        at_least(2, self.held_out, "number of held-out images")
        at_least(0, self.seed, "seed")
        if self.max_memory_mib is not None:
            at_least(1, self.max_memory_mib, "most memory in MiB")
        low = [one for one in self.precisions if one != FULL_PRECISION]
        if low and not self.limits.any:
            raise StmdeployError(
                f"{', '.join(low)} may win only within limits",
                "give --max-error, --min-agreement or --max-top1-drop",
            )
        if self.limits.max_error is not None and self.limits.max_error < EXACT:
            raise StmdeployError(
                f"--max-error {self.limits.max_error:g} is below what fp32 is verified to",
                f"give at least {EXACT:g}, or leave it out: then fp32 alone races",
            )
        if self.limits.max_top1_drop_percent is not None and not (
            self.data is not None and self.data.labelled
        ):
            raise StmdeployError(
                "--max-top1-drop needs labelled images", "give --data FOLDER with class folders"
            )

    def may_be(self, precision: str) -> bool:
        """Whether a precision may win: fp32; others within limits, if named or if none is."""
        if self.precisions:
            return precision in self.precisions
        return precision == FULL_PRECISION or self.limits.any
