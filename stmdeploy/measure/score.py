"""How often an artifact is right: top-1 and top-5 over labelled images, and agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stmdeploy.backbones.images import LabelledBatch
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.plugins.runner import Array, Runner
from stmdeploy.schema.evaluation import Share95

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: A label counts for top-5 if it is among so many of the highest logits.
_TOP = 5


@dataclass
class Score:
    """Counts of images; ``agreed`` and ``reference_top1`` are None without a reference."""

    images: int = 0
    top1: int = 0
    top5: int = 0
    agreed: int | None = None
    reference_top1: int | None = None


def score(
    runner: Runner,
    reference: Runner | None,
    batches: Iterable[LabelledBatch],
    batch: int,
    tell: Callable[[Score], None],
) -> Score:
    """Runs labelled images through an artifact, and through its reference beside it.

    Args:
        runner, reference: loaded for `batch` images; a smaller batch is filled up.
        batches: of at most `batch` images.
        tell: called with the score so far, after every batch.

    Raises:
        StmdeployError: (exit code 4) logits that are not finite.
    """
    total = Score()
    if reference is not None:
        total.agreed = total.reference_top1 = 0
    for some in batches:
        ranked = _ranked(_logits(runner, some.images, batch))
        total.images += len(some.labels)
        total.top1 += int((ranked[:, 0] == some.labels).sum())
        total.top5 += int((ranked[:, :_TOP] == some.labels[:, None]).any(axis=1).sum())
        if reference is not None:
            first = _ranked(_logits(reference, some.images, batch))[:, 0]
            assert total.agreed is not None and total.reference_top1 is not None
            total.agreed += int((first == ranked[:, 0]).sum())
            total.reference_top1 += int((first == some.labels).sum())
        tell(total)
    return total


def _logits(runner: Runner, images: Array, batch: int) -> Array:
    import numpy as np

    missing = batch - len(images)
    filled = np.concatenate((images, np.repeat(images[-1:], missing, axis=0)))
    runner.prepare(filled)
    runner.run()
    logits = runner.outputs()[0][: len(images)]
    if not np.isfinite(logits).all():
        raise StmdeployError(
            "the artifact gives logits that are not finite", "export it with another --precision",
            ExitCode.OUTPUTS_DIFFER,
        )  # fmt: skip
    return logits


def _ranked(logits: Array) -> npt.NDArray[np.int64]:
    """Classes by falling logit, N x classes; of equal ones the first comes first."""
    import numpy as np

    return np.argsort(-logits, axis=1, kind="stable")


def share95(part: int, whole: int) -> Share95:
    """A share in per cent with its 95 % interval (Wilson, JASA 22, 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(part, whole).proportion_ci(0.95, "wilson")
    return Share95(
        percent=100 * part / whole, low=100 * float(interval.low), high=100 * float(interval.high)
    )
