"""How much of a model a low precision keeps, image by image, and what can be promised of it.

A promise is a one-sided confidence bound over images that had no part in choosing the candidate.
Where several candidates are tried on the same images, one after another from the fastest to the
safest, the n-th is tested with 1 / (n (n + 1)) of the error that all may have together, so that the
first that holds is wrong with at most that probability (Bonferroni; it is learn-then-test of
Angelopoulos et al., arXiv 2110.01052, with that for the multiple tests).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stmdeploy.schema.mixed import Kept
from stmdeploy.spec.fidelity import FidelityLimits

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from stmdeploy.plugins.runner import Array

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]

#: Probability that a promise is wrong.
ALPHA = 0.05


@dataclass(frozen=True)
class Outcome:
    """A candidate against the model in float32 over N images.

    Attributes:
        squared_errors, squared_lengths: ||y - r||^2 and ||r||^2 of every image's logits.
        agrees: whether the top-1 class is the same.
        right, reference_right: whether the top-1 class is the label, of either; None without
            labels.
    """

    squared_errors: Floats
    squared_lengths: Floats
    agrees: Bools
    right: Bools | None = None
    reference_right: Bools | None = None

    def __len__(self) -> int:
        return len(self.agrees)

    def as_table(self) -> dict[str, Any]:
        """Lists by their names, which `of_table` reads."""
        return {name: None if v is None else v.tolist() for name, v in vars(self).items()}

    @classmethod
    def of_table(cls, table: Mapping[str, Any]) -> Outcome:
        """Reads what `as_table` gave.

        Raises:
            ValueError, TypeError, KeyError: it is damaged.
        """
        import numpy as np

        floats = ("squared_errors", "squared_lengths")
        bools = ("agrees", "right", "reference_right")
        given: dict[str, Any] = {name: np.array(table[name], np.float64) for name in floats}
        given |= {n: None if table[n] is None else np.array(table[n], bool) for n in bools}
        if len({len(one) for one in given.values() if one is not None}) != 1:
            raise ValueError("lengths differ")
        return cls(**given)

    @property
    def is_finite(self) -> bool:
        """Whether all logits are."""
        return math.isfinite(float(self.squared_errors.sum()))

    @property
    def relative_l2_error(self) -> float:
        """||y - r|| / ||r|| over all images; infinite if a logit is not finite."""
        return math.sqrt(float(self.squared_errors.sum() / self.squared_lengths.sum()))

    @property
    def agreement_percent(self) -> float:
        """Share of images with the same top-1 class, in per cent."""
        return 100 * float(self.agrees.mean())

    @property
    def top1_drop_percent(self) -> float | None:
        """How much lower top-1 is, in percentage points; None without labels."""
        if self.right is None or self.reference_right is None:
            return None
        return 100 * float(self.reference_right.mean() - self.right.mean())


@dataclass(frozen=True)
class Bounds:
    """One-sided bounds, each at the same level: highest error, least agreement, highest drop."""

    error: float
    agreement_percent: float
    top1_drop_percent: float | None

    def keep(self, limits: FidelityLimits) -> bool:
        """Whether all that is asked is kept."""
        if limits.max_error is not None and not self.error <= limits.max_error:
            return False
        least = limits.min_agreement_percent
        if least is not None and not self.agreement_percent >= least:
            return False
        most, drop = limits.max_top1_drop_percent, self.top1_drop_percent
        return most is None or (drop is not None and drop <= most)


def outcome(got: Array, reference: Array, labels: npt.NDArray[np.int64] | None = None) -> Outcome:
    """Compares logits N x classes; labels are classes, N. Logits that are not finite are wrong."""
    import numpy as np

    mine, theirs = got.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(mine).all(axis=1)
    mine[~finite] = 0.0
    first, other = mine.argmax(axis=1), theirs.argmax(axis=1)
    return Outcome(
        squared_errors=np.where(finite, ((mine - theirs) ** 2).sum(axis=1), np.inf),
        squared_lengths=(theirs**2).sum(axis=1),
        agrees=finite & (first == other),
        right=None if labels is None else finite & (first == labels),
        reference_right=None if labels is None else other == labels,
    )


def kept(found: Outcome) -> Kept:
    """An outcome as documents hold it."""
    return Kept(
        relative_l2_error=found.relative_l2_error if found.is_finite else None,
        agreement_percent=found.agreement_percent,
        top1_drop_percent=found.top1_drop_percent,
    )


def tested(found: Outcome, bound: Bounds, alpha: float, limits: FidelityLimits) -> dict[str, Any]:
    """The fields that documents about a test of limits share."""
    return {
        "images": len(found),
        "kept": kept(found),
        "level": alpha,
        "error_bound": bound.error if math.isfinite(bound.error) else None,
        "agreement_bound_percent": bound.agreement_percent,
        "top1_drop_bound_percent": bound.top1_drop_percent,
        "holds": bound.keep(limits),
    }


def level(tested: int) -> float:
    """The error that the n-th candidate is tested with, from 1: all together make `ALPHA`."""
    return ALPHA / (tested * (tested + 1))


def bounds(found: Outcome, alpha: float, images: int | None = None) -> Bounds:
    """What holds of all images like these, each figure with probability 1 - alpha.

    Args:
        images: what so many images would show if as large a share of them were lost; by default as
            many as there are.
    """
    count = len(found) if images is None else images
    scale = count / len(found)
    drop = None
    if found.right is not None and found.reference_right is not None:
        lost = scale * int((found.reference_right & ~found.right).sum())
        won = scale * int((found.right & ~found.reference_right).sum())
        # Half of the error for either share.
        drop = 100 * (_most(lost, count, alpha / 2) - (1 - _most(count - won, count, alpha / 2)))
    agreed = 1 - _most(count - scale * int(found.agrees.sum()), count, alpha)
    return Bounds(_highest_error(found, alpha), 100 * agreed, drop)


def _most(hits: float, count: int, alpha: float) -> float:
    """Upper bound of a share (Clopper and Pearson, Biometrika 26, 1934)."""
    from scipy.stats import beta

    return 1.0 if hits >= count else float(beta.ppf(1 - alpha, hits + 1, count - hits))


def _highest_error(found: Outcome, alpha: float) -> float:
    """The least e for which the mean of ||y - r||^2 - e^2 ||r||^2 is surely not above 0 (Fieller,
    J. R. Stat. Soc. B 16, 1954); infinite if there is none.

    Errors have long tails: the t statistic is corrected for skewness (Hall, J. R. Stat. Soc. B 54,
    1992).
    """
    import numpy as np
    from scipy.stats import t

    count = len(found)
    if count < 2 or not found.is_finite:
        return math.inf
    errors, lengths = found.squared_errors, found.squared_lengths
    quantile, root = float(t.ppf(1 - alpha, count - 1)), math.sqrt(count)

    def above(square: float) -> bool:
        left = errors - square * lengths
        deviation = float(np.std(left, ddof=1))
        if deviation <= 1e-12 * float(np.abs(left).max()):  # all alike
            return float(left.mean()) > 0
        mean = float(left.mean())
        ours, a = root * mean / deviation, float(((left - mean) ** 3).mean()) / deviation**3 / root
        corrected = ours + a * ours**2 / 3 + a**2 * ours**3 / 27 + a / 6
        return corrected > -quantile

    low = float(errors.sum() / lengths.sum())
    high = max(low, 1e-30)
    for _ in range(60):
        if not above(high):
            break
        low, high = high, 2 * high
    else:
        return math.inf
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) else (low, middle)
    return math.sqrt(high)


def images_needed(limits: FidelityLimits, alpha: float | None = None) -> int:
    """How many images at least show that a limit is kept, if none of them differs.

    Args:
        alpha: probability that the bound is wrong; None for that of the first candidate.
    """
    alpha = level(1) if alpha is None else alpha
    shares = [1.0]
    if limits.min_agreement_percent is not None:
        shares.append((100 - limits.min_agreement_percent) / 100)
    needed = 2 if limits.max_error is not None else 1
    if limits.max_top1_drop_percent is not None:
        # The other half of the error is spent on what is won, of which there may be none.
        share = limits.max_top1_drop_percent / 100
        needed = max(needed, math.ceil(math.log(alpha / 2) / math.log(1 - share)))
    least = min(shares)
    return max(needed, math.ceil(math.log(alpha) / math.log(1 - least)) if least < 1 else 1)
