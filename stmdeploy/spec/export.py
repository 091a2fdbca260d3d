"""The artifact that is asked for: target, precision, lowering, calibration, engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.spec.limits import at_least, at_most
from stmdeploy.spec.model import ModelSpec

FULL_PRECISION = "fp32"
#: fp16 and bf16: weights and activations. int8: both, scales from calibration images.
#: int8-dynamic: matrix products only, activations scaled as they come.
PRECISIONS = (FULL_PRECISION, "fp16", "bf16", "int8", "int8-dynamic")
#: Forms that a backbone can be exported in; see `stmdeploy.backbones.lowering`.
LOWERINGS = ("reference", "tokens", "tokens-plain")
#: The lowest ONNX opset that has the operators of a form.
LOWEST_OPSET = {"reference": 19, "tokens": 23, "tokens-plain": 19}
#: ONNX Runtime's optimiser mixes up the types of quantised graphs of later opsets.
HIGHEST_INT8_OPSET = 20
MAX_BATCH = 2**31 - 1
MAX_CALIBRATION_IMAGES = 4096


@dataclass(frozen=True)
class CalibrationSpec:
    """Images to set the scales of int8 with, and to judge every low precision by.

    Attributes:
        folder: of images; None for random ones, which say little of real activations.
        images: how many set the scales; as many others judge.
    """

    folder: Path | None = None
    images: int = 16

    def __post_init__(self) -> None:
        at_least(1, self.images, "number of calibration images")
        at_most(MAX_CALIBRATION_IMAGES, self.images, "number of calibration images")


@dataclass(frozen=True)
class EngineSpec:
    """What a TensorRT builder is told.

    Attributes:
        batch: least, best and most images per inference.
        workspace_mib: scratch memory of a layer; None for all of the device.
        builder_level: 0 to 5, fastest build to fastest engine; None for the builder's default.
        timing_cache: a file that TensorRT keeps its measurements in between builds.
        compute_capabilities: such as ``8.9``; TensorRT-RTX builds for them, without a GPU too.
    """

    batch: tuple[int, int, int] = (1, 8, 32)
    workspace_mib: int | None = None
    builder_level: int | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least(1, self.batch[0], "batch")
        at_most(MAX_BATCH, self.batch[2], "batch")
        if not self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise StmdeployError(
                f"batches {','.join(map(str, self.batch))} do not grow", "give --batch MIN,OPT,MAX"
            )
        if self.workspace_mib is not None:
            at_least(1, self.workspace_mib, "workspace")
        if self.builder_level is not None:
            at_least(0, self.builder_level, "builder level")
            at_most(5, self.builder_level, "builder level")


@dataclass(frozen=True)
class ExportSpec:
    """An artifact to make.

    Attributes:
        model: what to export.
        target: the exporter, such as ``onnx``.
        folder: where the artifact and its manifest go.
        precision: one of `PRECISIONS`.
        lowering: one of `LOWERINGS`; None for what suits the target. A user's own model is
            always exported as it is.
        opset: ONNX opset; None for the exporter's default.
        calibration: images for the low precisions.
        engine: of targets that build one.
        source_only: of such targets, whether it is built elsewhere, where it runs.
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

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise StmdeployError(
                f"unknown precision {self.precision!r}", nearest(self.precision, PRECISIONS)
            )
        if self.lowering not in (None, *LOWERINGS):
            raise StmdeployError(
                f"unknown lowering {self.lowering!r}", f"choose one of: {', '.join(LOWERINGS)}"
            )

    @property
    def stem(self) -> str:
        """File name of the artifact, without its suffix."""
        height, width = self.model.image_size
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.model.name)
        return f"{safe}-{height}x{width}-{self.precision}"
