"""Images whose outputs are known, and what they say of a runner at any batch.

A batch is made of three images, over and over, so that every row differs from its neighbours and
has its like further on. It is run as it is, and once more with the image of one row exchanged. So
every row is held against the model in float64, the worst one counting; rows of the same image
against each other; and no row but the exchanged one may move. Attention that leaks over the batch,
a row that is skipped and rows in the wrong order each fail one of them.

Needs NumPy alone: it also runs in the processes that measure, at the very batch, runtime and device
that is measured.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.plugins.runner import Runner
from stmdeploy.schema.manifest import KnownOutputs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Images = npt.NDArray[np.float32]
    Outputs = npt.NDArray[np.float64]

#: How many images there are.
IMAGES = 3
#: Of a larger output, evenly spaced values are kept.
_MOST_VALUES = 4096
#: Over so many values the usual length of an output is known to a tenth; images at most for it.
_ENOUGH_VALUES, _MOST_IMAGES = 128, 32
#: Rounding of fewer values than this scatters so much that the tolerance is widened by the root of
#: how many times fewer; measured over 600 seeds, the worst rows of 1, 2 and 10 classes then keep a
#: third of it or more.
_FEW_VALUES = 16
#: How far outputs of one image may differ by where it stands in a batch, and by what stands
#: beside it, relative L2: two roundings of the precision. Every runtime tried here gives zero, but
#: for int8-dynamic, whose scales are those of the whole batch: reported, not judged.
_INDEPENDENT = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 1e-2, "int8": 1e-2}
_NO_FIGURE = "no figure was taken"


def probe_images(seed: int, image_size: tuple[int, int], count: int = IMAGES) -> Images:
    """The three images, N 3 H W, and more for a larger `count`: standard normal noise.

    By NumPy's legacy generator, whose numbers are promised not to change.
    """
    import numpy as np

    random = np.random.RandomState(seed)
    return random.standard_normal((count, 3, *image_size)).astype(np.float32)


def further_images(values: int) -> int:
    """Of a model with so many outputs, how many images beside the three tell their usual length.

    Few logits may all happen to be near zero; then rounding that is as small as ever is large
    beside them. With ten classes three images in ten thousand were such, with two every tenth.
    """
    return max(0, min(_MOST_IMAGES, -(-_ENOUGH_VALUES // values)) - IMAGES)


def known(seed: int, outputs: Outputs) -> KnownOutputs:
    """The outputs of the three images, N x anything, in the form that is kept.

    Args:
        outputs: of the three, and then of as many as `further_images` says.
    """
    import numpy as np

    flat = outputs.reshape(len(outputs), -1)
    step = -(-flat.shape[1] // _MOST_VALUES)
    kept = flat[:, ::step]
    return KnownOutputs(
        seed=seed,
        step=step,
        length=float(np.sqrt((kept**2).sum(axis=1).mean())),
        values=base64.b64encode(kept[:IMAGES].astype("<f4").tobytes()).decode(),
    )


@dataclass(frozen=True)
class Found:
    """What a runner did with a batch: the errors of its worst row, and how far a row moved by
    where it stands or by its neighbours. ``runtime`` is what it calls itself."""

    relative_l2_error: float
    worst_difference: float
    row_dependence: float
    runtime: str


class Probe:
    """The three images with what the model gives for them.

    Args:
        outputs: as of a manifest.
        image_size: (height, width) in pixels.
        precision: of what is looked at.
        tolerance: bound on the relative L2 error of a row of many values; None to report it only.
    """

    def __init__(
        self,
        outputs: KnownOutputs,
        image_size: tuple[int, int],
        precision: str,
        tolerance: float | None,
    ) -> None:
        import numpy as np

        self._images = probe_images(outputs.seed, image_size)
        values = np.frombuffer(base64.b64decode(outputs.values), "<f4").reshape(IMAGES, -1)
        self._expected: Outputs = values.astype(np.float64)
        self._step, self._seed, self._length = outputs.step, outputs.seed, outputs.length
        self._precision = precision
        few = max(1.0, _FEW_VALUES / self._expected.shape[1])
        self._tolerance = None if tolerance is None else tolerance * few**0.5

    def batch(self, size: int) -> Images:
        """So many images, the three over and over: N 3 H W."""
        import numpy as np

        # All room first: a batch that does not fit is told at once.
        images = np.empty((size, *self._images.shape[1:]), np.float32)
        for i, image in enumerate(self._images[:size]):
            images[i::IMAGES] = image
        return images

    def look(self, runner: Runner, images: Images) -> Found:
        """Runs a batch twice, the second time with one image exchanged, and judges every row.

        Args:
            runner: prepared with `images`; afterwards it holds them again.
            images: what `batch` gave; the same array, as it was, on return.

        Raises:
            StmdeployError: (exit code 4) a row that is not finite, is off, or moved.
        """
        import numpy as np

        size = len(images)
        owners = np.arange(size) % IMAGES
        first = self._outputs(runner, size)
        found = self.judge(first, owners)
        dependence = self._unequal(first, owners)
        if size > 1:
            changed = size // 2
            other = owners.copy()
            other[changed] = (other[changed] + 1) % IMAGES
            images[changed] = self._images[other[changed]]
            runner.feed(images)
            second = self._outputs(runner, size)
            images[changed] = self._images[owners[changed]]
            runner.feed(images)
            self.judge(second, other)
            dependence = max(dependence, self._moved(first, second, changed))
        facts = runner.facts()
        return Found(*found, dependence, f"{facts['runtime']} {facts['version']} "
                                         f"({facts['provider']})")  # fmt: skip

    def _outputs(self, runner: Runner, size: int) -> Outputs:
        runner.run()
        return self.kept(runner.output(), size)

    def kept(self, outputs: npt.NDArray[np.float32], size: int) -> Outputs:
        """The values of a batch's outputs that are known of, in float64.

        Raises:
            StmdeployError: (exit code 4) outputs of another shape, or not finite.
        """
        import numpy as np

        values = outputs.reshape(len(outputs), -1)[:, :: self._step].astype(np.float64)
        expected = (size, self._expected.shape[1])
        if values.shape != expected:
            raise differs(
                f"outputs have shape {outputs.shape} at batch {size}, "
                f"not {size} rows of {expected[1] * self._step if self._step > 1 else expected[1]}"
            )
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise NotFiniteError(
                f"outputs are not finite at batch {size}"
                + (f", the first is row {row}" if size > 1 else "")
            )
        return values

    def judge(self, got: Outputs, owners: npt.NDArray[np.int64]) -> tuple[float, float]:
        """The worst row's relative L2 error, and the largest difference of a value.

        Raises:
            StmdeployError: (exit code 4) a row beyond the tolerance.
        """
        import numpy as np

        expected = self._expected[owners]
        errors = self._relative(got, expected)
        worst = int(errors.argmax())
        if self._tolerance is not None and errors[worst] > self._tolerance:
            where = f" in row {worst} of a batch of {len(got)}" if len(got) > 1 else ""
            raise differs(
                f"outputs differ from PyTorch float64 by {errors[worst]:.1e} relative L2{where}, "
                f"allowed {self._tolerance:.0e} (input seed {self._seed})"
            )
        return float(errors[worst]), float(np.abs(got - expected).max())

    def _unequal(self, got: Outputs, owners: npt.NDArray[np.int64]) -> float:
        """How far rows of one image are from the first of them."""
        likes = got[owners]  # the rows of the first three, in the order of their images
        errors = self._relative(got, likes)
        worst = int(errors.argmax())
        self._check_dependence(
            float(errors[worst]),
            f"rows {owners[worst]} and {worst} of a batch of {len(got)} hold the same image",
        )
        return float(errors[worst])

    def _moved(self, first: Outputs, second: Outputs, changed: int) -> float:
        """How far rows moved whose image stayed."""
        errors = self._relative(second, first)
        errors[changed] = 0.0
        worst = int(errors.argmax())
        self._check_dependence(
            float(errors[worst]),
            f"row {worst} of a batch of {len(first)} moved as the image of row {changed} changed",
        )
        return float(errors[worst])

    def _check_dependence(self, by: float, what: str) -> None:
        allowed = _INDEPENDENT.get(self._precision)
        if allowed is not None and by > allowed:
            raise differs(
                f"{what}: outputs differ by {by:.1e} relative L2, allowed {allowed:.0e}; the rows "
                f"of a batch are not independent (input seed {self._seed})"
            )

    def _relative(self, got: Outputs, expected: Outputs) -> npt.NDArray[np.float64]:
        """L2 distance, row by row, relative to the row's length or, if larger, the usual one."""
        import numpy as np

        lengths = np.maximum(np.linalg.norm(expected, axis=1), self._length)
        relative: npt.NDArray[np.float64] = np.linalg.norm(got - expected, axis=1) / lengths
        return relative


class NotFiniteError(StmdeployError):
    """Outputs that are no numbers; the exporter may know where they come from."""

    def __init__(self, message: str) -> None:
        super().__init__(message, _NO_FIGURE, ExitCode.OUTPUTS_DIFFER)


def differs(message: str, hint: str = _NO_FIGURE) -> StmdeployError:
    """Outputs that are not the model's: exit code 4."""
    return StmdeployError(message, hint, ExitCode.OUTPUTS_DIFFER)
