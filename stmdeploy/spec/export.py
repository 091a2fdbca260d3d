"""The artifact to export: target, precision, lowering, calibration, engine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.spec.limits import at_least, at_most
from stmdeploy.spec.model import CLASSIFICATION, ModelSpec, SizeRange
from stmdeploy.spec.preparation import Prepared

FULL_PRECISION = "fp32"
#: fp16 and bf16: weights and activations. int8: both, with scales from calibration images.
#: int8-dynamic: matrix products only, with activations scaled at run time. fp8: as int8, in floats
#: of 8 bits (E4M3).
PRECISIONS = (FULL_PRECISION, "fp16", "bf16", "int8", "int8-dynamic", "fp8")
#: Those whose scales are set by calibration images, and those that ONNX writes by quantisation.
CALIBRATED, QUANTISED = ("int8", "fp8"), ("int8", "int8-dynamic", "fp8")
#: Forms that a backbone can be exported in; see `stmdeploy.backbones.lowering`.
REFERENCE, TOKENS, TOKENS_PLAIN, GPU = "reference", "tokens", "tokens-plain", "gpu"
LOWERINGS = (REFERENCE, TOKENS, TOKENS_PLAIN, GPU)
#: The lowest ONNX opset that has the operators of a form.
LOWEST_OPSET = {REFERENCE: 19, TOKENS: 23, TOKENS_PLAIN: 19, GPU: 19}
#: ONNX Runtime's optimiser mixes up the types of quantised graphs of later opsets.
HIGHEST_INT8_OPSET = 20
#: Ends the precision in the names of artifacts that keep parts of the model as they are.
MIXED = "-mixed"
MAX_BATCH = 2**31 - 1
#: Between these sides, in pixels, a file of dynamic size takes images of any.
LEAST_SIDE, MOST_SIDE = 64, 1344
MAX_CALIBRATION_IMAGES = 4096


@dataclass(frozen=True)
class CalibrationSpec:
    """Images that set the scales of int8, and by which every low precision is judged.

    Attributes:
        folder: holds the images; None for random ones, which say little about real activations.
        images: how many set the scales; as many others judge.
    """

    folder: Path | None = None
    images: int = 16

    def __post_init__(self) -> None:
        at_least(1, self.images, "number of calibration images")
        at_most(MAX_CALIBRATION_IMAGES, self.images, "number of calibration images")


@dataclass(frozen=True)
class EngineSpec:
    """Settings of a TensorRT builder.

    Attributes:
        batch: images per inference: minimum, optimum, maximum.
        workspace_mib: scratch memory of a layer in MiB; None for all of the device's memory.
        builder_level: 0 (fastest build) to 5 (fastest engine); None for the builder's default.
        timing_cache: file in which TensorRT keeps its measurements between builds.
        compute_capabilities: GPUs that TensorRT-RTX builds for, such as ``8.9``; none need be here.
        sizes: the image sizes that an engine takes; None for that of the model alone.
    """

    batch: tuple[int, int, int] = (1, 8, 32)
    workspace_mib: int | None = None
    builder_level: int | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()
    sizes: SizeRange | None = None

    def __post_init__(self) -> None:
        at_least(1, self.batch[0], "batch")
        at_most(MAX_BATCH, self.batch[2], "batch")
        if not self.batch[0] <= self.batch[1] <= self.batch[2]:
            shown = ",".join(map(str, self.batch))
            raise StmdeployError(f"batches {shown} do not grow", "give --batch MIN,OPT,MAX")
        if self.workspace_mib is not None:
            at_least(1, self.workspace_mib, "workspace")
        if self.builder_level is not None:
            at_least(0, self.builder_level, "builder level")
            at_most(5, self.builder_level, "builder level")

    @property
    def only_batch(self) -> int | None:
        """The batch that an engine takes, if it takes one alone."""
        return self.batch[0] if self.batch[0] == self.batch[2] else None

    def for_batch(self, batch: int) -> EngineSpec:
        """The same for one batch alone, whose kernels are chosen for it."""
        return replace(self, batch=(batch, batch, batch))


@dataclass(frozen=True)
class ExportSpec:
    """An artifact to export.

    Attributes:
        model: the model to export.
        target: the exporter, such as ``onnx``.
        folder: where the artifact and its manifest go.
        precision: one of `PRECISIONS`.
        lowering: one of `LOWERINGS`; None for what suits the target. A user's own model is
            always exported as it is.
        opset: ONNX opset; None for the exporter's default.
        calibration: images for the low precisions.
        engine: settings for targets that build an engine.
        source_only: for such targets, whether the engine is built later, on the machine it runs on.
        provider: ONNX Runtime's provider on a GPU that an ONNX file is made for, such as ``cuda``;
            empty if for none in particular.
        keep: parts of the model that a low precision leaves as they are, as `inspect` names them,
            such as ``stage 1 mixer``.
        ranges: file in which the ranges of activations are kept from one quantisation of the same
            graph by the same images to the next; None keeps none.
        preparation: how photographs are prepared for the model, where not as it says itself.
        dynamic_size: whether the artifact takes images of any size in `sizes`; that of the model is
            then the best one.
    """

    model: ModelSpec
    target: str
    folder: Path
    precision: str = "fp32"
    lowering: str | None = None
    opset: int | None = None
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    engine: EngineSpec = field(default_factory=EngineSpec)
    source_only: bool = False
    dynamic_size: bool = False
    provider: str = ""
    keep: tuple[str, ...] = ()
    ranges: Path | None = None
    preparation: Prepared = field(default_factory=Prepared)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            hint = nearest(self.precision, PRECISIONS)
            raise StmdeployError(f"unknown precision {self.precision!r}", hint)
        if self.lowering not in (None, *LOWERINGS):
            hint = f"choose one of: {', '.join(LOWERINGS)}"
            raise StmdeployError(f"unknown lowering {self.lowering!r}", hint)

    @property
    def sizes(self) -> SizeRange:
        """The image sizes that the artifact takes: the model's own; if dynamic, from 64 to 1344 px
        a side, or wider where that lies beyond."""
        height, width = best = self.model.image_size
        if not self.dynamic_size:
            return SizeRange(best, best, best)
        return SizeRange(
            (min(height, LEAST_SIDE), min(width, LEAST_SIDE)),
            best,
            (max(height, MOST_SIDE), max(width, MOST_SIDE)),
        )

    @property
    def stem(self) -> str:
        """File name of the artifact, without its suffix."""
        height, width = self.model.image_size
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.model.name)
        task = "" if self.model.task == CLASSIFICATION else f"-{self.model.task}"
        neck = f"-{self.model.neck}" if self.model.neck else ""
        size = "dynamic" if self.dynamic_size else f"{height}x{width}"
        provider = f"-{self.provider}" if self.provider else ""
        mixed = MIXED if self.keep else ""
        return f"{safe}{task}{neck}-{size}-{self.precision}{mixed}{provider}"
