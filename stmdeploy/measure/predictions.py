"""What a classifier says of images in their views, image by image."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stmdeploy.backbones.batches import Batch
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.plugins.runner import Array, Runner

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

#: A label counts for top-5 if it is among so many of the highest logits.
_TOP = 5
#: The arrays of a file of predictions: their types, and whether they have a line for every view.
_ARRAYS = {
    "places": ("int64", False),
    "labels": ("int64", False),
    "top1": ("int64", True),
    "in_top5": ("bool", True),
    "cross_entropy": ("float32", True),
    "reference_top1": ("int64", False),
    "skipped": ("int64", False),
}
#: Those that may be of another length than the images.
_APART = ("reference_top1", "skipped")


@dataclass(frozen=True)
class Predictions:
    """Of N images in V views, the standard view first.

    Attributes:
        places: places of the images in the data, N; every image once.
        labels: classes, N; -1 where nobody has labelled.
        top1: classes with the highest logit, V x N.
        in_top5: whether the label is among the five highest logits, V x N.
        cross_entropy: of a view's logits against the softmax of the standard view's, V x N, in
            nats.
        reference_top1: the reference's classes in the standard view, N; empty without a reference.
        skipped: places of images that could not be read.
    """

    places: Ints
    labels: Ints
    top1: Ints
    in_top5: npt.NDArray[np.bool_]
    cross_entropy: Array
    reference_top1: Ints
    skipped: Ints

    def __len__(self) -> int:
        return len(self.places)

    def covers(self, begin: int, end: int) -> bool:
        """Whether it is about all places of a range and no others, skipped ones included."""
        return sorted([*self.places.tolist(), *self.skipped.tolist()]) == [*range(begin, end)]

    @property
    def consistent(self) -> npt.NDArray[np.bool_]:
        """Whether a view's class is that of the image's standard view, V x N."""
        same: npt.NDArray[np.bool_] = self.top1 == self.top1[:1]
        return same

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether a view's class is the label, V x N."""
        same: npt.NDArray[np.bool_] = self.top1 == self.labels
        return same

    def of(self, places: Ints) -> Predictions:
        """Those of some places, in their order; all of them must be there."""
        import numpy as np

        order = np.argsort(self.places)
        found = order[np.searchsorted(self.places, places, sorter=order)]
        kept = {
            name: getattr(self, name) for name in _APART if len(getattr(self, name)) != len(self)
        }
        kept["skipped"] = self.skipped
        chosen = {name: getattr(self, name)[..., found] for name in _ARRAYS if name not in kept}
        return Predictions(**kept, **chosen)

    def to_bytes(self) -> bytes:
        """A compressed file of NumPy's."""
        import numpy as np

        file = io.BytesIO()
        np.savez_compressed(file, **{name: getattr(self, name) for name in _ARRAYS})
        return file.getvalue()

    @staticmethod
    def from_bytes(content: bytes, views: int) -> Predictions:
        """Reads `to_bytes`; data alone, no pickles.

        Raises:
            ValueError: it is damaged, or of another number of views.
        """
        import numpy as np

        arrays: dict[str, Any] = {}
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                for name, (dtype, by_view) in _ARRAYS.items():
                    one = file[name]
                    if one.dtype != dtype or one.ndim != 1 + by_view:
                        raise ValueError(f"{name} is of another kind")
                    arrays[name] = one
        except (KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(str(error)) from error
        count = len(arrays["places"])
        for name, (_, by_view) in _ARRAYS.items():
            shape = (views, count) if by_view else (count,)
            free = name == "skipped" or (name == "reference_top1" and not len(arrays[name]))
            if not free and arrays[name].shape != shape:
                raise ValueError(f"{name} has another shape")
        return Predictions(**arrays)


def merged(parts: Sequence[Predictions], views: int) -> Predictions:
    """All predictions of some parts, by their places.

    Raises:
        ValueError: an image is in two parts.
    """
    import numpy as np

    given = [*parts, _none(views)]
    whole = Predictions(
        **{name: np.concatenate([getattr(one, name) for one in given], axis=-1) for name in _ARRAYS}
    )
    everything = np.concatenate((whole.places, whole.skipped))
    if len(np.unique(everything)) != len(everything):
        raise ValueError("an image is counted twice")
    return replace(whole.of(np.sort(whole.places)), skipped=np.sort(whole.skipped))


def _none(views: int) -> Predictions:
    import numpy as np

    shapes = {name: (views, 0) if by_view else (0,) for name, (_, by_view) in _ARRAYS.items()}
    return Predictions(
        **{name: np.zeros(shapes[name], kind) for name, (kind, _) in _ARRAYS.items()}
    )


@dataclass
class Timing:
    """How long it took, in seconds, and for how long of that the runtime waited for images."""

    total_s: float = 0.0
    waited_s: float = 0.0


def predict(
    runner: Runner,
    reference: Runner | None,
    batches: Iterable[Batch],
    batch: int,
    views: int,
    timing: Timing,
    tell: Callable[[], None] = lambda: None,
) -> Iterator[Predictions]:
    """Runs images through a classifier, and their standard views through its reference beside it.

    Args:
        runner, reference: loaded for `batch` images; a smaller batch is filled up.
        batches: as `Reading.batches` gives them.
        views: number of views.
        timing: added to.
        tell: called after every batch.

    Returns:
        The predictions of the images of each batch, when their last view is done.

    Raises:
        StmdeployError: (exit code 4) logits that are not finite.
    """
    import numpy as np

    lines: list[tuple[Ints, Any, Array]] = []
    probabilities: Array | None = None
    beside: Ints = np.zeros(0, np.int64)
    begun = time.perf_counter()
    for some in batches:
        timing.waited_s += time.perf_counter() - begun
        logits = _logits(runner, some.images, batch)
        if some.view == 0:
            lines, probabilities = [], _softmax(logits)
            if reference is not None:
                beside = _ranked(_logits(reference, some.images, batch))[:, 0]
        assert probabilities is not None
        ranked = _ranked(logits)
        in_top5 = (ranked[:, :_TOP] == some.labels[:, None]).any(axis=1)
        lines.append((ranked[:, 0], in_top5, _cross_entropy(logits, probabilities)))
        tell()
        timing.total_s += time.perf_counter() - begun
        if len(lines) == views:
            top1, tops, losses = (np.stack(one) for one in zip(*lines, strict=True))
            none = np.zeros(0, np.int64)
            yield Predictions(some.places, some.labels, top1, tops, losses, beside, none)
        begun = time.perf_counter()


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


def _ranked(logits: Array) -> Ints:
    """Classes by falling logit, N x classes; of equal ones the first comes first."""
    import numpy as np

    return np.argsort(-logits, axis=1, kind="stable")


def _softmax(logits: Array) -> Array:
    import numpy as np

    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    softened: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return softened


def _cross_entropy(logits: Array, probabilities: Array) -> Array:
    """Of every image, in nats."""
    import numpy as np

    shifted = logits - logits.max(axis=1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    losses: Array = -(probabilities * log).sum(axis=1).astype(np.float32)
    return losses
