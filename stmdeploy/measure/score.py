"""How often a classifier is right, and how little it minds a transform, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stmdeploy.measure.predictions import Predictions
from stmdeploy.schema.evaluation import Share95
from stmdeploy.schema.invariance import Curve, Estimate, Level
from stmdeploy.spec.views import UNITS, ViewSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: Resamples of the images, and how many of them are weighed at once: weights take memory.
RESAMPLES, _AT_ONCE = 1000, 50
_SEED = 0


def share95(part: int, whole: int) -> Share95:
    """A share in per cent with its 95 % interval (Wilson, JASA 22, 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(part, whole).proportion_ci(0.95, "wilson")
    return Share95(
        percent=100 * part / whole, low=100 * float(interval.low), high=100 * float(interval.high)
    )


class Resampled:
    """Means over images, and the same over images drawn with replacement (Efron, Annals of
    Statistics 7, 1979): what another choice of as many images might give.

    Args:
        values: V x N, a line for each figure.
    """

    def __init__(self, values: Floats) -> None:
        import numpy as np

        count = values.shape[1]
        self.values, self.means = values, values.mean(axis=1)
        dice, drawn = np.random.default_rng(_SEED), []
        for _ in range(0, RESAMPLES, _AT_ONCE):
            weights = dice.multinomial(count, np.full(count, 1 / count), size=_AT_ONCE)
            drawn.append(weights @ values.T / count)
        self._drawn: Floats = np.concatenate(drawn)

    def estimate(self, weights: Floats | Sequence[float], scale: float = 1.0) -> Estimate:
        """A weighted sum of the means, times `scale`, with its 95 % interval (percentiles)."""
        import numpy as np

        how = np.asarray(weights, np.float64)
        low, high = np.percentile(self._drawn @ how, [2.5, 97.5])
        value = float(self.means @ how)
        return Estimate(
            value=scale * value,
            low=scale * min(float(low), value),
            high=scale * max(float(high), value),
        )

    def line(self, place: int, scale: float = 1.0) -> Estimate:
        """The mean of one line."""
        import numpy as np

        return self.estimate(np.eye(len(self.means))[place], scale)

    def share(self, place: int) -> Estimate:
        """The mean of one line of zeros and ones, in per cent; where all images agree, and thus all
        resamples, the interval is Wilson's."""
        found = self.line(place, 100)
        if 0 < found.value < 100:
            return found
        wilson = share95(int(self.values[place].sum()), self.values.shape[1])
        return Estimate(value=found.value, low=wilson.low, high=wilson.high)


def area_weights(levels: Sequence[float]) -> Floats:
    """Weights of a curve's points in its mean over the range of levels (trapezoids)."""
    import numpy as np

    x = np.asarray(levels, np.float64)
    steps = np.diff(x)
    weights = np.zeros(len(x))
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    shares: Floats = weights / (x[-1] - x[0])
    return shares


class Scores:
    """The figures of predictions, all resampled together.

    Args:
        found: of at least one image.
        views: what they are of.
        beside: the same network's in float32, over the same images; None without one.
    """

    def __init__(self, found: Predictions, views: ViewSpec, beside: Predictions | None) -> None:
        import numpy as np

        lines = {"consistency": found.consistent, "cross_entropy": found.cross_entropy}
        if (found.labels >= 0).all():
            lines |= {"top1": found.right, "top5": found.in_top5}
        if beside is not None:
            lines["more"] = found.consistent.astype(np.float64) - beside.consistent
        self._views, self._count = views, len(views.views)
        self._blocks = {name: self._count * i for i, name in enumerate(lines)}
        self._all = Resampled(np.concatenate([one.astype(np.float64) for one in lines.values()]))

    @property
    def curves(self) -> tuple[Curve, ...]:
        """A curve for every transform."""
        return tuple(map(self._curve, self._views.transforms))

    def area(self, name: str, *transforms: str) -> Estimate | None:
        """Mean over transforms of the area under a line's curve, in per cent; None if there is no
        such line.

        Args:
            name: ``consistency``, or ``more`` for what it has more than in float32.
        """
        import numpy as np

        if name not in self._blocks:
            return None
        weights = np.zeros(self._all.means.shape)
        for transform in transforms:
            first, levels = self._views.of(transform)
            begin = self._blocks[name] + first
            weights[begin : begin + len(levels)] = area_weights(levels) / len(transforms)
        if name == "more" and not self._all.values[weights > 0].any():
            # No image differs, and so no resample does; of others a few may, each by 100 at most.
            most = share95(0, self._all.values.shape[1]).high
            return Estimate(value=0.0, low=-most, high=most)
        return self._all.estimate(weights, 100)

    def _curve(self, name: str) -> Curve:
        first, levels = self._views.of(name)
        area = self.area("consistency", name)
        assert area is not None
        return Curve(
            transform=name,
            unit=UNITS[name],
            area=area,
            area_more_than_fp32=self.area("more", name),
            levels=tuple(
                Level(
                    level=level,
                    consistency=self._all.share(self._blocks["consistency"] + place),
                    cross_entropy=self._all.line(self._blocks["cross_entropy"] + place),
                    top1=self._share("top1", place),
                    top5=self._share("top5", place),
                )
                for place, level in enumerate(levels, first)
            ),
        )

    def _share(self, name: str, place: int) -> Estimate | None:
        return self._all.share(self._blocks[name] + place) if name in self._blocks else None
