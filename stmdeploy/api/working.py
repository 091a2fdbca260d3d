"""`export` and `profile` as functions; options are those of the command line, spelled with
underscores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from stmdeploy.api.results import Results
from stmdeploy.errors import StmdeployError, nearest

if TYPE_CHECKING:
    from torch import nn

    from stmdeploy.plugins.progress import Progress
    from stmdeploy.schema.artifact import Artifact

Several = str | int | Sequence[str] | Sequence[int]


def profile(
    stm: Several = (),
    scale: Several = (),
    *,
    batch: Several = (),
    runtime: Several = (),
    precision: Several = (),
    image_size: Several = (),
    model: Several = (),
    files: str | Path | Sequence[str | Path] = (),
    input: Several = (),
    checkpoint: str | Path | None = None,
    gpu: Several = (),
    budget_s: float | None = None,
    reference: str | None = None,
    out: str | Path = "stmdeploy-results",
    progress: bool = True,
    **options: Any,
) -> Results:
    """Measures every combination of what is given, by turns, in processes of their own.

    Args:
        stm, scale: backbones; by default the five mixers at scale micro.
        batch: images per inference; by default 1 and 8.
        runtime: ``onnxruntime``, ``openvino``, ``torch``, ...; by default ``onnxruntime``.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``int8-dynamic``, ``fp8``.
        image_size: one side in pixels, or ``"HEIGHTxWIDTH"``.
        model: models of your own, as ``"package.module:callable"``.
        files: models that you have, such as ``"model.onnx"``; alone unless others are named.
        input: what a file leaves open of its inputs, as ``"image:1x3x224x224"``.
        checkpoint: a file, a URL, or ``"official"``; by default synthetic weights.
        gpu: the GPU to measure on, such as ``"a100"``; by default the processor.
        budget_s: sampling time of a row, in seconds.
        reference: words of the name of the row that others are compared with.
        out: folder of the store.
        progress: whether to show it on stderr.
        options: whatever else `stmdeploy profile --help` lists, such as ``threads=2``.

    Returns:
        The rows; one that failed says why, and the others are there.

    Raises:
        StmdeployError: bad input, before anything is measured.

    >>> results = stmdeploy.profile(["convnext", "swin"], "micro", batch=1)  # doctest: +SKIP
    >>> results.ratios()[["row", "ratio", "ratio_low", "ratio_high"]]  # doctest: +SKIP
    """
    from stmdeploy.cli.options import SweepOptions
    from stmdeploy.cli.outside import file_models
    from stmdeploy.cli.requests import sweep_spec
    from stmdeploy.sweeps.profile import Place
    from stmdeploy.sweeps.profile import profile as measure

    given = {
        "stm": stm, "scale": scale, "batch": batch, "runtime": runtime, "precision": precision,
        "image_size": image_size, "model": model, "gpu": gpu, "budget_s": budget_s,
        "reference": reference, "checkpoint": None if checkpoint is None else str(checkpoint),
        **options,
    }  # fmt: skip
    asked = _as_options(SweepOptions, given)
    paths = [files] if isinstance(files, (str, Path)) else files
    said = tuple(map(str, [input] if isinstance(input, (str, int)) else input))
    with _progress(progress) as told:
        how = said, asked.runtime, asked.precision
        spec = sweep_spec(asked, files=file_models(list(map(Path, paths)), *how, told))
        done = measure(spec, Place(Path(out)), told, lambda _: None)
    return Results(done.rows, sweep=done.sweep.id, reference=done.reference, folder=Path(out))


def export(
    model: nn.Module | str,
    scale: str | None = None,
    *,
    target: str = "onnx",
    precision: str = "fp32",
    lowering: str | None = None,
    image_size: int | tuple[int, int] = 224,
    num_classes: int | None = None,
    checkpoint: str | Path | None = None,
    calibration: str | Path | None = None,
    out: str | Path = "stmdeploy-artifacts",
    progress: bool = True,
) -> Artifact:
    """Writes a model as an artifact that is verified against PyTorch in float64.

    Args:
        model: a backbone's name, such as ``"dcn"``; ``"package.module:callable"``; or a module,
            which maps images N 3 H W to logits. A module is copied, and exported in this process.
        scale: of a backbone; by default ``tiny``.
        target: ``onnx``, ``openvino``, ``tensorrt``, ...; ``stmdeploy list targets`` has all.
        precision: as for `profile`.
        lowering: form of the mixers; by default what suits the target.
        image_size: one side, or (height, width), in pixels; of a backbone that is given as
            a module, it is the module's own.
        num_classes: outputs of the head; by default 1000, or the model's own.
        checkpoint: a file, a URL, or ``"official"``; not with a module, which has its weights.
        calibration: folder of photographs that set the scales of int8 and fp8.
        out: folder for the artifact.

    Returns:
        The artifact: its path, and its manifest with errors, hashes, operators and cost.

    Raises:
        StmdeployError: bad input; or (``error.code`` 4) outputs that differ from PyTorch's.

    >>> artifact = stmdeploy.export("convnext", "micro")  # doctest: +SKIP
    >>> artifact.manifest.verification.relative_l2_error < 1e-5  # doctest: +SKIP
    True
    """
    from stmdeploy.artifacts.promises import check_precision
    from stmdeploy.plugins.registry import exporter_for_target
    from stmdeploy.spec.export import CalibrationSpec, ExportSpec

    exporter = exporter_for_target(target)
    check_precision(exporter, precision)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    shared: dict[str, Any] = {
        "target": target,
        "folder": Path(out),
        "precision": precision,
        "lowering": lowering,
        "calibration": CalibrationSpec(None if calibration is None else Path(calibration)),
    }
    with _progress(progress) as told:
        if isinstance(model, str):
            source = None if checkpoint is None else str(checkpoint)
            spec = _named(model, scale, size, num_classes, source)
            return _export_named(ExportSpec(model=spec, **shared), told)
        if scale is not None or checkpoint is not None:
            raise StmdeployError(
                "a module has its own scale and weights", "leave scale and checkpoint out"
            )
        from stmdeploy.artifacts.artifact import export_built
        from stmdeploy.backbones.source import built_of
        from stmdeploy.files.writing import writable

        if not exporter.target.holds_code:
            raise StmdeployError(
                f"target {target!r} holds weights alone, and a module has no name to build it by",
                "give package.module:callable, or another target",
            )
        built, of_module = built_of(model, size, num_classes)
        with writable(Path(out)):
            return export_built(built, exporter, ExportSpec(model=of_module, **shared), told)


def _named(
    name: str,
    scale: str | None,
    size: tuple[int, int],
    num_classes: int | None,
    checkpoint: str | None,
) -> Any:
    """The spec of a named model, checked as the command line's is."""
    from stmdeploy.cli.options import SweepOptions
    from stmdeploy.cli.requests import model_specs

    which: dict[str, Any] = {"model": (name,)} if ":" in name else {"stm": (name,)}
    if scale is not None:
        which["scale"] = (scale,)
    (spec,) = model_specs(
        SweepOptions(
            **which,
            image_size=("{}x{}".format(*size),),
            num_classes=num_classes,
            checkpoint=checkpoint,
        )
    )
    return spec


def _export_named(spec: Any, told: Progress) -> Artifact:
    from stmdeploy.files.writing import writable
    from stmdeploy.schema.artifact import read_artifact
    from stmdeploy.spec.run import EXPORT_TIMEOUT_S
    from stmdeploy.worker.exports import export_alone

    with writable(spec.folder):
        made = export_alone(spec, EXPORT_TIMEOUT_S, told)
        return read_artifact(spec.folder / made.name)


def _as_options(kind: type[Any], given: dict[str, Any]) -> Any:
    """A dataclass of options from what a caller gives: one value or several where several fit.

    Raises:
        StmdeployError: there is no such option, or several values where one fits.
    """
    from stmdeploy.cli.command import is_list, parse_list

    kinds, values = get_type_hints(kind), {}
    for name, value in given.items():
        if name not in kinds:
            raise StmdeployError(f"unknown option {name!r}", nearest(name, kinds))
        several = isinstance(value, Sequence) and not isinstance(value, str)
        if is_list(kinds[name]):
            items = list(value) if several else [value]
            values[name] = parse_list(kinds[name], list(map(str, items)), name) if items else ()
        elif several:
            raise StmdeployError(f"{name} takes one value", f"give one of {value}")
        else:
            values[name] = value
    return kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})


@contextmanager
def _progress(shown: bool) -> Iterator[Progress]:
    if not shown:
        from stmdeploy.plugins.progress import Silent

        yield Silent()
        return
    from stmdeploy.cli import console

    with console.progress() as told:
        yield told
