"""Which precision is tried on which parts of a model, over which images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.export import FULL_PRECISION, ExportSpec
from stmdeploy.spec.fidelity import FidelityLimits
from stmdeploy.spec.limits import at_least


@dataclass(frozen=True)
class TrialSpec:
    """What is tried.

    Attributes:
        export: the artifact with everything in the low precision.
        folder: keeps what was tried, so that it need not be tried again.
        data: photographs; None for noise.
        choosing, held_out: how many images choose, and how many test what was chosen, at most;
            photographs are parted at random, and after the choosing ones come the others.
        seed: of that.
        batch, threads: images per inference; threads of one operator.
        limits: what must be kept.
    """

    export: ExportSpec
    folder: Path
    data: DataSpec | None
    choosing: int = 64
    held_out: int = 512
    seed: int = 0
    batch: int = 8
    threads: int = 1
    limits: FidelityLimits = field(default_factory=FidelityLimits)

    def __post_init__(self) -> None:
        at_least(2, self.choosing, "number of choosing images")
        at_least(2, self.held_out, "number of held-out images")
        at_least(0, self.seed, "seed")
        if self.export.precision == FULL_PRECISION:
            raise StmdeployError("fp32 is no low precision", "give fp16, bf16, int8 or fp8")
        unlabelled = self.data is None or not self.data.labelled
        if unlabelled and self.limits.max_top1_drop_percent is not None:
            raise StmdeployError(
                "--max-top1-drop needs labelled images", "give --data FOLDER with class folders"
            )
