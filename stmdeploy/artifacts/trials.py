"""Tries a low precision on parts of a model, and finds the most that keeps given limits.

Parts are put in order by the latency that the low precision saves there, over the error that it
adds there (both measured, one part at a time). Candidates lower the first k of them. The largest k
that is likely to be shown to keep the limits is found by bisection, on the images that choose; it,
and if need be smaller ones, are then tested on images that had no part in any of this
(`measure.fidelity`).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.artifacts.artifact import usable_forms
from stmdeploy.artifacts.graph import graph_cost
from stmdeploy.artifacts.promises import check_mixes
from stmdeploy.artifacts.verification import draft_runner
from stmdeploy.backbones.images import NO_LABEL, UNREADABLE, images_of, load_image
from stmdeploy.backbones.lowering import lower
from stmdeploy.backbones.source import BuiltModel
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files.reading import one_line
from stmdeploy.files.writing import staging, write_atomically
from stmdeploy.measure.fidelity import Outcome, bounds, images_needed, kept, level, outcome, tested
from stmdeploy.plugins.exporter import Exporter, OperatorProfiler, Work
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.runner import Array
from stmdeploy.schema.manifest import Draft
from stmdeploy.schema.mixed import Choice, PartCost, Sensitivity, Tried
from stmdeploy.spec.export import CALIBRATED, FULL_PRECISION, QUANTISED, ExportSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.trials import TrialSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_RANDOM = "random"
#: Inferences of which the median time of every part is taken.
_PROFILED = 15


@dataclass(frozen=True)
class TrialImages:
    """Images that set scales, that choose, and that test the choice; no image is in two of them.

    Attributes:
        source: name of their folder; ``random`` for noise.
        choosing_labels, held_out_labels: classes; None without labels.
    """

    source: str
    calibrating: Array
    choosing: Array
    held_out: Array
    choosing_labels: npt.NDArray[np.int64] | None
    held_out_labels: npt.NDArray[np.int64] | None


class Trials:
    """Candidates of one model, each exported, and run over images, once.

    Raises:
        StmdeployError: a target that cannot keep parts apart in this precision; too few images.
    """

    def __init__(
        self, built: BuiltModel, exporter: Exporter, spec: TrialSpec, progress: Progress
    ) -> None:
        check_mixes(exporter, spec.export.precision)
        self._built, self._exporter, self._spec, self._progress = built, exporter, spec, progress
        self.form = usable_forms(built, exporter, spec.export, progress)[0][0]

    @cached_property
    def images(self) -> TrialImages:
        """Read, or made, when they are first needed."""
        return _images(self._built, self._spec, self._progress)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The parts that the precision changes, in the order of the model."""
        with staging(self._spec.folder) as scratch:
            draft = self._draft(self._plain(self.form), self.form, scratch)
            cost = graph_cost(scratch / draft.graph).by_part
        products_only = self._spec.export.precision in QUANTISED
        return tuple(
            part for part, share in cost.items()
            if part != "other" and (share.macs or not products_only)
        )  # fmt: skip

    def sensitivity(self) -> Sensitivity:
        """What the precision costs every part, one at a time, over the images that choose."""
        times = self._part_times()
        together = self.outcome((), held_out=False)
        costs = []
        for part in self.parts:
            others = tuple(other for other in self.parts if other != part)
            found = self.outcome(others, held_out=False)
            low, full = (one.get(part) if one else None for one in times)
            costs.append(PartCost(part=part, kept=kept(found), fp32_ms=full, low_ms=low))
        info, images = self._built.info, self.images
        return Sensitivity(
            model=info.name,
            weights=info.weights.kind,
            weights_sha256=info.weights.sha256,
            image_size=info.pixels,
            target=self._exporter.target.name,
            precision=self._spec.export.precision,
            lowering=self.form,
            runtime=" ".join((self._exporter.target.runtimes[0], *self._versions)),
            data=images.source,
            calibrating=len(images.calibrating) if self._calibrates else 0,
            images=len(images.choosing),
            together=kept(together),
            parts=tuple(costs),
        )

    def choose(self) -> tuple[Choice, tuple[str, ...] | None]:
        """The parts to keep as they are: the fewest, by latency saved per error added, with which
        the limits hold over images held out; None if with none of them.

        Raises:
            StmdeployError: (exit code 3) too few images to show it.
        """
        limits = self._spec.limits
        if (needed := images_needed(limits)) > (count := len(self.images.held_out)):
            raise StmdeployError(
                f"{count} images held out cannot show that the limits are kept: it takes {needed}",
                "give more images, or --held-out more of them",
                ExitCode.CANNOT_TELL,
            )
        found = self.sensitivity()
        order = in_order(found.parts)
        tried: list[Tried] = []

        def holds(lowered: int, alpha: float, *, held_out: bool) -> bool:
            staying = tuple(part for part in self.parts if part not in order[:lowered])
            seen = self.outcome(staying, held_out=held_out)
            # Those that choose are to foretell what those held out will show, who are more.
            bound = bounds(seen, alpha, len(seen) if held_out else len(self.images.held_out))
            one = Tried(
                kept_parts=staying,
                over="held out" if held_out else "choosing",
                **tested(seen, bound, alpha, limits),
            )
            tried.append(one)
            return one.holds

        most = _largest(len(order), lambda k: holds(k, level(1), held_out=False))
        chosen = None
        for number, lowered in enumerate(range(most, 0, -1), 1):
            if holds(lowered, level(number), held_out=True):
                chosen = tuple(part for part in self.parts if part not in order[:lowered])
                break
        choice = Choice(
            **vars(limits),
            seed=self._spec.seed,
            sensitivity=found,
            tried=tuple(tried),
            held=chosen is not None,
        )
        return choice, chosen

    def outcome(self, kept: tuple[str, ...], *, held_out: bool) -> Outcome:
        """How a candidate does; taken from the folder if it was tried there before."""
        path = self._spec.folder / f"{self._key(kept, held_out=held_out)}.json"
        try:
            return Outcome.of_table(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            pass
        what = "held-out" if held_out else "choosing"
        lowered = [part for part in self.parts if part not in kept]
        told = ", ".join(lowered) if len(lowered) < len(kept) else f"all but {len(kept)} parts"
        self._progress.step(f"{self._spec.export.precision} in {told}, over {what} images")
        images = self.images
        given = images.held_out if held_out else images.choosing
        labels = images.held_out_labels if held_out else images.choosing_labels
        found = outcome(self._logits(kept, given), self._reference(held_out=held_out), labels)
        write_atomically(path, json.dumps(found.as_table()).encode())
        return found

    def _key(self, kept: tuple[str, ...], *, held_out: bool) -> str:
        """What an outcome depends on, as one word."""
        info, spec = self._built.info, self._spec
        words = (
            info.model_dump_json(), spec.export.precision, spec.export.target, self.form,
            sorted(kept), spec.batch, version("stmdeploy"), self._versions, self._hashes[held_out],
        )  # fmt: skip
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:24]

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        """Of the images that set scales with those that choose, and with those held out."""
        images = self.images

        def of(array: Array) -> str:
            return hashlib.sha256(images.calibrating.tobytes() + array.tobytes()).hexdigest()

        return of(images.choosing), of(images.held_out)

    @cached_property
    def _versions(self) -> tuple[str, ...]:
        """Those of the runtime's packages that are installed here."""
        found = []
        for package in self._exporter.target.packages:
            with suppress(PackageNotFoundError):
                found.append(version(package))
        return tuple(found)

    def _plain(self, form: str | None) -> ExportSpec:
        return replace(self._spec.export, precision=FULL_PRECISION, keep=(), lowering=form)

    def _draft(self, export: ExportSpec, form: str, scratch: Path) -> Draft:
        images = self.images
        return self._exporter.export(
            Work(
                module=lower(self._built.module, form, self._built.info.pixels),
                form=form,
                info=self._built.info,
                outputs=self._built.outputs(),
                spec=export,
                folder=scratch,
                images=images.calibrating if export.precision in CALIBRATED else None,
                images_source=images.source,
                tell=self._progress.detail,
            )
        )

    @property
    def _calibrates(self) -> bool:
        return self._spec.export.precision in CALIBRATED

    def _low(self, kept: tuple[str, ...]) -> ExportSpec:
        """The low precision but for some parts; the images that set scales are run once for all."""
        export = replace(self._spec.export, keep=kept)
        if not self._calibrates:
            return export
        name = f"ranges-{self._key(('ranges',), held_out=False)}"
        return replace(export, ranges=(self._spec.folder / name).resolve())

    def _logits(self, kept: tuple[str, ...], images: Array) -> Array:
        """The logits of a candidate, of which nothing but these is left."""
        return self._run(self._low(kept), self.form, images)

    def _reference(self, *, held_out: bool) -> Array:
        """The logits in float32."""
        return self._of_held_out if held_out else self._of_choosing

    @cached_property
    def _of_choosing(self) -> Array:
        return self._run(self._plain(self._plain_form), self._plain_form, self.images.choosing)

    @cached_property
    def _of_held_out(self) -> Array:
        return self._run(self._plain(self._plain_form), self._plain_form, self.images.held_out)

    @cached_property
    def _plain_form(self) -> str:
        """The form that the model has in float32."""
        return usable_forms(self._built, self._exporter, self._plain(None), self._progress)[0][0]

    def _run_spec(self, precision: str, batch: int) -> RunSpec:
        target, spec = self._exporter.target, self._spec
        return RunSpec(target.runtimes[0], batch, spec.threads, precision=precision)

    def _run(self, export: ExportSpec, form: str, images: Array) -> Array:
        """Exports, and runs images."""
        import numpy as np

        batch, parts = self._spec.batch, []
        with staging(self._spec.folder) as scratch:
            draft = self._draft(export, form, scratch)
            run, main = self._run_spec(export.precision, batch), scratch / draft.files[0]
            runner = draft_runner(self._exporter, main, draft, run, lambda: self._built.module)
            for start in range(0, len(images), batch):
                some = images[start : start + batch]
                missing = np.repeat(some[-1:], batch - len(some), axis=0)
                runner.prepare(np.concatenate((some, missing)))
                runner.run()
                parts.append(runner.outputs()[0][: len(some)])
        found: Array = np.concatenate(parts)
        return found

    def _part_times(self) -> tuple[dict[str, float] | None, dict[str, float] | None]:
        """Milliseconds of every part at batch 1, all in the low precision and in float32; None
        where the runtime has no profiler, or does not run here."""
        if not isinstance(self._exporter, OperatorProfiler):
            return None, None
        low = self._times_of(self._low(()), self.form)
        return low, low and self._times_of(self._plain(self.form), self.form)

    def _times_of(self, export: ExportSpec, form: str) -> dict[str, float] | None:
        assert isinstance(self._exporter, OperatorProfiler)
        path = self._spec.folder / f"times-{export.precision}-{self._key((), held_out=False)}.json"
        if path.is_file():
            try:
                return {str(k): float(v) for k, v in json.loads(path.read_text("utf-8")).items()}
            except (ValueError, AttributeError, TypeError):
                pass
        self._progress.step(f"timing the parts in {export.precision}")
        with staging(self._spec.folder) as scratch:
            draft = self._draft(export, form, scratch)
            if draft.not_run:
                return None
            run = self._run_spec(export.precision, 1)
            main, image = scratch / draft.files[0], self.images.choosing[:1]
            try:
                told = self._exporter.operator_times(
                    main, run, lambda: self._built.module, (image,), _PROFILED
                )
            except StmdeployError:
                return None
        times = _medians(told)
        write_atomically(path, json.dumps(times).encode())
        return times


def _medians(inferences: Iterable[Iterable[Any]]) -> dict[str, float]:
    """The median time of every part, in ms."""
    import statistics

    by_part: defaultdict[str, list[float]] = defaultdict(list)
    for inference in inferences:
        whole: defaultdict[str, float] = defaultdict(float)
        for one in inference:
            whole[one.part] += one.duration_ms
        for part, spent in whole.items():
            by_part[part].append(spent)
    return {part: statistics.median(spent) for part, spent in by_part.items()}


def in_order(parts: Sequence[PartCost]) -> list[str]:
    """Parts that are worth a low precision, those first that save most for the error they add;
    where no profiler tells, those that add least. Without those whose outputs are not finite."""

    def worth(one: PartCost) -> float:
        error = max(one.kept.relative_l2_error or 0.0, 1e-12) ** 2
        saved = one.saved_ms
        return (1.0 if saved is None else saved) / error

    gaining = [
        one for one in parts
        if (one.saved_ms is None or one.saved_ms > 0) and one.kept.relative_l2_error is not None
    ]  # fmt: skip
    return [one.part for one in sorted(gaining, key=worth, reverse=True)]


def _largest(most: int, holds: Callable[[int], bool]) -> int:
    """The largest k up to `most` that holds, by bisection; 0 always does."""
    if most == 0 or holds(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def _images(built: BuiltModel, spec: TrialSpec, progress: Progress) -> TrialImages:
    import numpy as np

    first, size = spec.export.calibration.images, built.info.pixels
    if spec.data is None:
        dice = np.random.default_rng(spec.seed)
        count = first + spec.choosing + spec.held_out
        noise = dice.standard_normal((count, 3, *size), dtype=np.float32)
        middle = first + spec.choosing
        return TrialImages(_RANDOM, noise[:first], noise[first:middle], noise[middle:], None, None)
    preparation = spec.export.preparation.over(built.info.preparation)
    assert built.info.num_classes is not None
    files = images_of(spec.data, built.info.num_classes).files
    wanted = first + spec.choosing + spec.held_out
    progress.step(f"reading images from {spec.data.folder}")
    images, labels = [], []
    for place in np.random.default_rng(spec.seed).permutation(len(files)):
        path, label = files[place]
        try:
            images.append(load_image(path, size, preparation))
        except UNREADABLE as error:
            progress.warn(f"skipped {path}: {one_line(str(error))}")
            continue
        labels.append(label)
        if len(images) == wanted:
            break
    scarce = spec.choosing if len(images) == wanted else max(2, (len(images) - first) // 3)
    middle = first + min(spec.choosing, scarce)
    if len(images) < middle + 2:
        raise StmdeployError(
            f"{spec.data.folder} has {len(images)} images that can be read, too few to part: "
            f"{first} set scales, and others choose and test",
            "give more images, or --calibration-images fewer",
        )
    whole, classes = np.stack(images), np.array(labels, np.int64)
    known = None if (classes == NO_LABEL).any() else classes
    return TrialImages(
        spec.data.folder.resolve().name,
        whole[:first],
        whole[first:middle],
        whole[middle:],
        None if known is None else known[first:middle],
        None if known is None else known[middle:],
    )
