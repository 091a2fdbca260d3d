"""Checks a runner, at any batch, with images whose outputs are known.

A batch repeats three images, so that every row differs from its neighbours and equals another one
further on. It is run as it is, and once more with the image of one row exchanged. Every row is
compared with the model in float64, and the worst one counts; rows of the same image are compared
with each other; and no row but the exchanged one may move. Attention that leaks over the batch, a
row that is skipped and rows in the wrong order each fail one of these checks.

This needs NumPy alone, as it also runs in the processes that measure, at the very batch, runtime
and device that are measured.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.measure.outputs import kept, step_of
from stmdeploy.plugins.runner import Runner
from stmdeploy.schema.manifest import KnownOutput, KnownOutputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    Images = npt.NDArray[np.float32]
    Outputs = npt.NDArray[np.float64]
    Raw = Sequence[npt.NDArray[np.float32]]

#: Images that a batch repeats.
IMAGES = 3
#: Over so many values an output's usual length is known to a tenth; images used for it at most.
_ENOUGH_VALUES, _MOST_IMAGES = 128, 32
#: With fewer values than this, rounding errors scatter: the tolerance grows by the square root of
#: how many times fewer there are. Over 600 seeds, the worst rows of 1, 2 and 10 classes then keep a
#: third of it or more.
_FEW_VALUES = 16
#: How much the outputs of one image may depend on its place in a batch and on its neighbours,
#: relative L2: two roundings of the precision. Every runtime tried here gives zero, except with
#: int8-dynamic, whose scales are those of the whole batch: reported, not judged.
_INDEPENDENT = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 1e-2, "int8": 1e-2, "fp8": 1e-2}
_NO_FIGURE = "no figure was taken"


def probe_images(seed: int, image_size: tuple[int, int], count: int = IMAGES) -> Images:
    """The first `count` images of a seed, N 3 H W: standard normal noise.

    From NumPy's legacy generator, whose numbers are promised never to change.
    """
    import numpy as np

    random = np.random.RandomState(seed)
    return random.standard_normal((count, 3, *image_size)).astype(np.float32)


def further_images(values: int) -> int:
    """Images beyond the three that it takes to know the usual length of so many output values.

    A few logits may all happen to be near zero, and normal rounding is then large beside them:
    so it was for three images in ten thousand with ten classes, and for every tenth with two.
    """
    return max(0, min(_MOST_IMAGES, -(-_ENOUGH_VALUES // values)) - IMAGES)


def known(seed: int, outputs: Mapping[str, Outputs]) -> KnownOutputs:
    """Outputs of the three images in the form that manifests keep.

    Args:
        outputs: by name, N x anything: of the three images, then of as many as `further_images`
            says.
    """
    return KnownOutputs(
        seed=seed, outputs=tuple(_known(name, values) for name, values in outputs.items())
    )


def _known(name: str, outputs: Outputs) -> KnownOutput:
    import numpy as np

    size = int(np.prod(outputs.shape[1:]))
    values = kept(outputs)
    return KnownOutput(
        name=name,
        size=size,
        step=step_of(size),
        length=float(np.sqrt((values**2).sum(axis=1).mean())),
        values=base64.b64encode(values[:IMAGES].astype("<f4").tobytes()).decode(),
    )


@dataclass(frozen=True)
class Found:
    """Errors of a batch's worst row, and how far a row moved by its place or its neighbours.

    ``errors`` are relative L2 errors by output. ``runtime`` names the runtime with its version and
    provider.
    """

    errors: dict[str, float]
    worst_difference: float
    row_dependence: float
    runtime: str


class _Output:
    """One output: what is known of it, and how it is judged."""

    def __init__(self, known: KnownOutput, tolerance: float | None, named: bool) -> None:
        import numpy as np

        values = np.frombuffer(base64.b64decode(known.values), "<f4").reshape(IMAGES, -1)
        self.name, self.size, self.step = known.name, known.size, known.step
        self.expected: Outputs = values.astype(np.float64)
        self.length = known.length
        self.of = f" of {known.name}" if named else ""
        few = max(1.0, _FEW_VALUES / values.shape[1])
        self.tolerance = None if tolerance is None else tolerance * few**0.5

    def taken(self, output: npt.NDArray[np.float32], size: int) -> Outputs:
        """A batch's output at the places where the model's is known, in float64.

        Raises:
            StmdeployError: (exit code 4) it has another shape, or is not finite.
        """
        import numpy as np

        flat = output.reshape(len(output), -1)
        if flat.shape != (size, self.size):
            raise differs(
                f"outputs{self.of} have shape {output.shape} at batch {size}, "
                f"not {size} rows of {self.size}"
            )
        values = flat[:, :: self.step].astype(np.float64)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise NotFiniteError(
                f"outputs{self.of} are not finite at batch {size}"
                + (f", the first is row {row}" if size > 1 else "")
            )
        return values

    def relative(self, got: Outputs, expected: Outputs) -> npt.NDArray[np.float64]:
        """The L2 distance of each row, relative to its length or, if larger, the usual length."""
        import numpy as np

        lengths = np.maximum(np.linalg.norm(expected, axis=1), self.length)
        relative: npt.NDArray[np.float64] = np.linalg.norm(got - expected, axis=1) / lengths
        return relative


class Probe:
    """The three images, with the model's outputs for them.

    Args:
        outputs: the model's outputs, from a manifest.
        image_size: (height, width) in pixels.
        precision: that of the artifact.
        tolerance: bound on the relative L2 error of a row of many values; None only reports it.
    """

    def __init__(
        self,
        outputs: KnownOutputs,
        image_size: tuple[int, int],
        precision: str,
        tolerance: float | None,
    ) -> None:
        self._images = probe_images(outputs.seed, image_size)
        self._seed, self._precision = outputs.seed, precision
        named = len(outputs.outputs) > 1
        self._outputs = [_Output(one, tolerance, named) for one in outputs.outputs]

    def batch(self, size: int) -> Images:
        """A batch that repeats the three images: N 3 H W, float32."""
        import numpy as np

        # All memory first: a batch that does not fit fails at once.
        images = np.empty((size, *self._images.shape[1:]), np.float32)
        for i, image in enumerate(self._images[:size]):
            images[i::IMAGES] = image
        return images

    def look(self, runner: Runner, images: Images) -> Found:
        """Runs a batch twice, the second time with one image exchanged, and judges every row.

        Args:
            runner: prepared with `images`, which it holds again afterwards.
            images: what `batch` gave; changed in between, and restored.

        Raises:
            StmdeployError: (exit code 4) a row is not finite, beyond the tolerance, or moved.
        """
        import numpy as np

        size = len(images)
        owners = np.arange(size) % IMAGES
        first = self._run(runner, size)
        errors, difference = self.judge(first, owners)
        same = f"of a batch of {size} hold the same image"
        dependence = self._moved(
            first, [one[owners] for one in first], lambda r: f"rows {owners[r]} and {r} {same}"
        )
        if size > 1:
            changed = size // 2
            other = owners.copy()
            other[changed] = (other[changed] + 1) % IMAGES
            images[changed] = self._images[other[changed]]
            runner.feed(images)
            second = self._run(runner, size)
            images[changed] = self._images[owners[changed]]
            runner.feed(images)
            self.judge(second, other)
            for before, after in zip(first, second, strict=True):
                before[changed] = after[changed]  # the only row that may move
            what = f"of a batch of {size} moved as the image of row {changed} changed"
            dependence = max(
                dependence, self._moved(second, first, lambda row: f"row {row} {what}")
            )
        facts = runner.facts()
        by = f"{facts['runtime']} {facts['version']} ({facts['provider']})"
        return Found(errors, difference, dependence, by)

    def _run(self, runner: Runner, size: int) -> list[Outputs]:
        runner.run()
        return self.taken(runner.outputs(), size)

    def taken(self, outputs: Raw, size: int) -> list[Outputs]:
        """A batch's outputs at the places where the model's are known, in float64.

        Raises:
            StmdeployError: (exit code 4) there are more or fewer of them, they have another shape,
                or are not finite.
        """
        if len(outputs) != len(self._outputs):
            raise differs(f"there are {len(outputs)} outputs, not {len(self._outputs)}")
        return [one.taken(output, size) for one, output in zip(self._outputs, outputs, strict=True)]

    def judge(
        self, got: Sequence[Outputs], owners: npt.NDArray[np.int64]
    ) -> tuple[dict[str, float], float]:
        """The worst row's relative L2 error by output, and the largest difference of a value.

        Raises:
            StmdeployError: (exit code 4) a row is beyond the tolerance.
        """
        import numpy as np

        found, difference = dict[str, float](), 0.0
        for one, values in zip(self._outputs, got, strict=True):
            expected = one.expected[owners]
            errors = one.relative(values, expected)
            worst = int(errors.argmax())
            if one.tolerance is not None and errors[worst] > one.tolerance:
                where = f" in row {worst} of a batch of {len(values)}" if len(values) > 1 else ""
                raise differs(
                    f"outputs{one.of} differ from PyTorch float64 by {errors[worst]:.1e} relative "
                    f"L2{where}, allowed {one.tolerance:.0e} (input seed {self._seed})"
                )
            found[one.name] = float(errors[worst])
            difference = max(difference, float(np.abs(values - expected).max()))
        return found, difference

    def _moved(
        self, got: Sequence[Outputs], expected: Sequence[Outputs], what: Callable[[int], str]
    ) -> float:
        """How far the worst row is from the one that it must equal; `what` describes that row.

        Raises:
            StmdeployError: (exit code 4) it is further than the precision rounds.
        """
        furthest, allowed = 0.0, _INDEPENDENT.get(self._precision)
        for one, values, right in zip(self._outputs, got, expected, strict=True):
            errors = one.relative(values, right)
            worst = int(errors.argmax())
            by = float(errors[worst])
            if allowed is not None and by > allowed:
                raise differs(
                    f"{what(worst)}: outputs{one.of} differ by {by:.1e} relative L2, allowed "
                    f"{allowed:.0e}; the rows of a batch are not independent "
                    f"(input seed {self._seed})"
                )
            furthest = max(furthest, by)
        return furthest


class NotFiniteError(StmdeployError):
    """Outputs are not finite (exit code 4); an exporter may know where that comes from."""

    def __init__(self, message: str) -> None:
        super().__init__(message, _NO_FIGURE, ExitCode.OUTPUTS_DIFFER)


def differs(message: str, hint: str = _NO_FIGURE) -> StmdeployError:
    """The error that outputs are not the model's (exit code 4)."""
    return StmdeployError(message, hint, ExitCode.OUTPUTS_DIFFER)
