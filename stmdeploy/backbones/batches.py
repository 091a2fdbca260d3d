"""Batches of images in their views, read ahead of the network that takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.backbones.images import UNREADABLE
from stmdeploy.backbones.views import Photograph, look
from stmdeploy.files.reading import one_line
from stmdeploy.plugins.runner import Array
from stmdeploy.spec.preparation import STANDARD, Preparation
from stmdeploy.spec.views import ViewSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Batches that are made before they are asked for.
_AHEAD = 3


@dataclass(frozen=True)
class LabelledFile:
    """An image file, its class, and its place in the data."""

    path: Path
    label: int
    place: int


#: Files, and what they hold or why they cannot be read.
_Opened = list[tuple[LabelledFile, Future[Photograph | str]]]


@dataclass(frozen=True)
class Batch:
    """Images in one view.

    Attributes:
        view: place of the view in `ViewSpec.views`; of every view, the same images come in the same
            order, the standard view first.
        images: N 3 H W float32, normalised.
        labels: classes, N.
        places: places in the data, N.
    """

    view: int
    images: Array
    labels: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        batch: images of a batch at most; some may be missing: unreadable, or past the end.
        size: (height, width) in pixels.
        threads: that unpack, transform and normalise.
        preparation, spec: how, and in which views.
    """

    batch: int
    size: tuple[int, int]
    threads: int
    preparation: Preparation = STANDARD
    spec: ViewSpec = field(default_factory=ViewSpec)

    def batches(
        self, files: Sequence[LabelledFile], skip: Callable[[LabelledFile, str], None]
    ) -> Generator[Batch, None, None]:
        """Reads images; the next batches are made while one is used.

        Args:
            skip: called with every file that cannot be read, and the reason.
        """
        with ThreadPoolExecutor(self.threads) as pool:
            ahead: deque[tuple[Future[Batch | None], _Opened]] = deque()
            try:
                for start in range(0, len(files), self.batch):
                    some = files[start : start + self.batch]
                    # First in, first out: when a view begins, its photographs have begun.
                    opened = [(file, pool.submit(self._open, file)) for file in some]
                    for number in range(len(self.spec.views)):
                        made = pool.submit(self._make, opened, number)
                        ahead.append((made, opened if number == 0 else []))
                        if len(ahead) > _AHEAD:
                            yield from _finished(*ahead.popleft(), skip)
                while ahead:
                    yield from _finished(*ahead.popleft(), skip)
            finally:
                pool.shutdown(cancel_futures=True)

    def _open(self, file: LabelledFile) -> Photograph | str:
        try:
            return Photograph.read(file.path, file.place, self.size, self.preparation, self.spec)
        except UNREADABLE as error:
            return one_line(str(error))

    def _make(self, opened: _Opened, number: int) -> Batch | None:
        import numpy as np

        view, images, labels, places = self.spec.views[number], [], [], []
        for file, future in opened:
            photograph = future.result()
            if not isinstance(photograph, str):
                images.append(look(photograph, view, self.size, self.preparation, self.spec))
                labels.append(file.label)
                places.append(file.place)
        if not images:
            return None
        return Batch(number, np.stack(images), np.array(labels), np.array(places))


def _finished(
    made: Future[Batch | None], opened: _Opened, skip: Callable[[LabelledFile, str], None]
) -> Iterator[Batch]:
    """A batch, if it holds any image; names those that it lacks."""
    batch = made.result()
    for file, future in opened:
        if isinstance(why := future.result(), str):
            skip(file, why)
    if batch is not None:
        yield batch
