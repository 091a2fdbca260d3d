"""A file that somebody made elsewhere becomes an artifact, which nobody has verified.

What it says of its inputs is taken from the file; what it leaves open must be given. Where another
runtime than ONNX Runtime is to run an ONNX file, its outputs are held against those of ONNX Runtime
for the same made-up inputs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.artifacts.graph import graph_cost, operations
from stmdeploy.errors import ExitCode, StmdeployError, nearest
from stmdeploy.files.reading import plain_name, printable
from stmdeploy.files.writing import staging
from stmdeploy.hardware.machine import available_threads
from stmdeploy.measure.inputs import batch_of, random_inputs
from stmdeploy.plugins.exporter import Adopter, Adoption, Declared, Exporter
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_for_runtime, exporters
from stmdeploy.schema.artifact import (
    Artifact,
    file_info,
    manifest_path,
    publish_artifact,
    read_artifact,
)
from stmdeploy.schema.manifest import Draft, Manifest, ModelInfo, TensorInfo, WeightsInfo
from stmdeploy.schema.outside import FileFacts
from stmdeploy.spec.export import FULL_PRECISION, ExportSpec
from stmdeploy.spec.model import BATCH, MAX_CLASSES, FileSpec, InputSpec
from stmdeploy.spec.run import RunSpec

if TYPE_CHECKING:
    from torch import nn

#: What stands for the mixer, and for the form, of a file from outside.
FILE = "file"
#: Runs ONNX files as they are; what another runtime makes of one is compared with it.
_PLAIN_RUNTIME = "onnxruntime"
_SEED = 0
#: Relative L2 by which two runtimes may differ in float32 over a network that nobody knows.
_ALLOWED = 1e-3
#: A file leaves everything about an input open.
_OPEN_RANK = "..."


def facts_of(path: Path, given: Sequence[InputSpec]) -> FileFacts:
    """What a file is: an artifact with its manifest, or a file of another tool.

    Raises:
        StmdeployError: nothing here reads it, it is damaged, or it leaves something open.
    """
    if manifest_path(path).exists():
        manifest = read_artifact(path).manifest
        _refuse_inputs(given, path)
        exporter = exporters().get(manifest.target)
        runtimes = exporter.target.runtimes if exporter else ()
        ways = [(runtime, manifest.precision) for runtime in runtimes]
        engine = manifest.engine
        only = engine.batch[0] if engine and engine.batch[0] == engine.batch[2] else None
        batch, model = only or batch_of(manifest.inputs), manifest.model
    else:
        readers, known = _readers(path), _known(path, given)
        batch, model = batch_of(known.inputs), _info(path, known)
        ways = [
            (runtime, precision)
            for exporter, adopter in readers
            for runtime in exporter.target.runtimes
            for precision in adopter.precisions(known.precision)
        ]
    if not ways:
        raise StmdeployError(f"no runtime here takes {path}", "see `stmdeploy list targets`")
    return FileFacts(ways=tuple(ways), batch=batch, model=model)


def _refuse_inputs(given: Sequence[InputSpec], path: Path) -> None:
    if given:
        raise StmdeployError(
            f"{path} is an artifact whose manifest says what it takes", "leave --input out"
        )


def _readers(path: Path) -> list[tuple[Exporter, Adopter]]:
    """The exporters that take a file of that name, and can be used here; the usual one first."""
    try:
        plain_name(path.name)
    except ValueError as error:
        raise StmdeployError(f"{printable(str(path))}: {error}", "give it another name") from error
    if not path.is_file():
        raise StmdeployError(f"there is no file {path}", "give the path of a model")
    able = [
        (exporter, exporter)
        for exporter in exporters().values()
        if isinstance(exporter, Adopter) and path.suffix in exporter.adopts
    ]
    if not able:
        known = sorted(
            {s for e in exporters().values() if isinstance(e, Adopter) for s in e.adopts}
        )
        raise StmdeployError(
            f"{path} is of no kind that is known here", f"give one of: *{', *'.join(known)}"
        )
    usable = [pair for pair in able if not pair[0].unavailable()]
    if not usable:
        raise StmdeployError(f"{path} cannot be read here", able[0][0].unavailable())
    # Whoever writes files of that kind knows them best.
    return sorted(usable, key=lambda pair: pair[0].target.suffix != path.suffix)


def _known(path: Path, given: Sequence[InputSpec]) -> Declared:
    """What a file says of itself, as whoever knows its kind best reads it, with what is given."""
    return resolved(_readers(path)[0][1].declared(path), given, path)


def resolved(declared: Declared, given: Sequence[InputSpec], path: Path) -> Declared:
    """The same, with every dimension of the inputs known but the batch.

    The batch is the first dimension of the first input that leaves it open, and whatever has the
    same name in the file.

    Raises:
        StmdeployError: something is left open, or what is given does not fit.
    """
    said = {one.name: one for one in given}
    inputs = declared.inputs or tuple(_of_given(one) for one in given)
    if not inputs:
        raise StmdeployError(
            f"{path} does not say what it takes", "give --input NAME:1x3x224x224:float32"
        )
    if unknown := said.keys() - {one.name for one in inputs}:
        name = sorted(unknown)[0]
        raise StmdeployError(
            f"{path} has no input {name!r}", nearest(name, [one.name for one in inputs])
        )
    batch = next((one.shape[0] for one in inputs if one.shape and _is_open(one.shape[0])), None)
    known = tuple(_resolved(one, said.get(one.name), batch, path) for one in inputs)
    outputs = tuple(
        one.model_copy(update={"shape": tuple(BATCH if s == batch else s for s in one.shape)})
        if batch is not None
        else one
        for one in declared.outputs
    )
    return replace(declared, inputs=known, outputs=outputs)


def _of_given(given: InputSpec) -> TensorInfo:
    return TensorInfo(name=given.name, dtype=given.dtype or "float32", shape=given.shape)


def _is_open(side: int | str) -> bool:
    return isinstance(side, str) and side != _OPEN_RANK


def _resolved(
    one: TensorInfo, given: InputSpec | None, batch: int | str | None, path: Path
) -> TensorInfo:
    shape = one.shape
    if shape == (_OPEN_RANK,):
        shape = given.shape if given else shape
    elif shape and _is_open(shape[0]) and shape[0] == batch:
        shape = (BATCH, *shape[1:])
    if given is not None:
        if len(given.shape) != len(shape):
            raise StmdeployError(
                f"input {one.name} of {path} has {len(shape)} dimensions, not {len(given.shape)}",
                f"it is {_written(one)}",
            )
        if given.dtype not in ("", one.dtype):
            raise StmdeployError(
                f"input {one.name} of {path} takes {one.dtype}, not {given.dtype}",
                f"it is {_written(one)}",
            )
        for mine, asked in zip(shape, given.shape, strict=True):
            if isinstance(mine, int) and mine != asked:
                raise StmdeployError(
                    f"input {one.name} of {path} has a side of {mine}, not {asked}",
                    f"it is {_written(one)}",
                )
        shape = tuple(
            side if isinstance(side, int) or side == BATCH else asked
            for side, asked in zip(shape, given.shape, strict=True)
        )
    if left := [str(side) for side in shape if isinstance(side, str) and side != BATCH]:
        wanted = "x".join("1" if side == BATCH else str(side).upper() for side in shape)
        told = "its shape" if left == [_OPEN_RANK] else ", ".join(left)
        raise StmdeployError(
            f"input {one.name} of {path} leaves {told} open",
            f"give --input {one.name}:{wanted} with numbers in the place of words",
        )
    return one.model_copy(update={"shape": shape})


def _written(one: TensorInfo) -> str:
    return f"{one.name}:{'x'.join(map(str, one.shape))}:{one.dtype}"


def adopted(file: FileSpec, exporter: Exporter, spec: ExportSpec, progress: Progress) -> Artifact:
    """Makes an artifact of a file: files, and a manifest that says ``not verified``.

    A file with a manifest of its own keeps it.

    Args:
        exporter: makes it; its target's first runtime is to run it.
        spec: where it goes, in what it computes, and what an engine is built for.

    Raises:
        StmdeployError: it cannot be taken; (exit code 4) another runtime computes something else
            than ONNX Runtime does.
    """
    path = file.path
    if manifest_path(path).exists():
        return _copied(path, spec.folder)
    if not isinstance(exporter, Adopter) or path.suffix not in exporter.adopts:
        raise StmdeployError(
            f"target {exporter.target.name} does not take {path.name}", "take another --runtime"
        )
    declared = _known(path, file.inputs)
    able = exporter.precisions(declared.precision)
    if spec.precision not in able:
        raise StmdeployError(
            f"{path.name} computes in {declared.precision}, and {exporter.target.name} runs it in "
            f"{' or '.join(able) or 'no precision'} only",
            "leave --precision out",
        )
    progress.step(f"taking {path.name} for {exporter.target.name}, {spec.precision}")
    with staging(spec.folder) as scratch:
        work = Adoption(
            path, declared.inputs, declared.outputs, spec.precision, spec.engine, scratch,
            progress.detail,
        )  # fmt: skip
        start = time.perf_counter()
        draft = exporter.adopt(work)
        export_s = time.perf_counter() - start
        progress.step(f"comparing {path.name} for {exporter.target.name}, {spec.precision}")
        notes = _compared(path, exporter, spec, draft, scratch, declared)
        graph = scratch / draft.graph if draft.graph else None
        batch = batch_of(draft.inputs) or 1
        manifest = Manifest(
            state="not verified",
            target=exporter.target.name,
            precision=spec.precision,
            lowering=FILE,
            notes=notes,
            model=_info(path, declared),
            files=tuple(file_info(scratch / name) for name in draft.files),
            verification=None,
            dynamic_size=None,
            fidelity=None,
            cost=graph_cost(graph, draft.inputs) if graph and draft.graph_is_exact else None,
            operations=operations(graph, draft.inputs, batch) if graph else (),
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            export_s=export_s,
            **{
                **draft.model_dump(exclude={"files", "graph", "graph_is_exact"}),
                "versions": {"stmdeploy": version("stmdeploy"), **draft.versions},
            },
        ).sealed()
        return publish_artifact(scratch, manifest, spec.folder)


def _copied(path: Path, folder: Path) -> Artifact:
    """An artifact with its manifest, in another folder."""
    artifact = read_artifact(path)
    with staging(folder) as scratch:
        for file in artifact.manifest.files:
            shutil.copyfile(path.with_name(file.name), scratch / file.name)
        return publish_artifact(scratch, artifact.manifest, folder)


def model_of(file: FileSpec) -> ModelInfo:
    """What a file is, as a model; raises as `facts_of`."""
    if manifest_path(file.path).exists():
        return read_artifact(file.path).manifest.model
    return _info(file.path, _known(file.path, file.inputs))


def _info(path: Path, declared: Declared) -> ModelInfo:
    """What a file is, as a model: of images if its first input is N 3 H W or N H W 3."""
    first = declared.inputs[0].shape
    sides = first[2:] if len(first) == 4 and first[1] == 3 else ()
    if len(first) == 4 and first[3] == 3 and not sides:
        sides = first[1:3]
    alone = len(declared.inputs) == 1 and len(declared.outputs) == 1
    logits = declared.outputs[0].shape[1:] if alone and len(declared.outputs[0].shape) == 2 else ()
    classes = int(logits[0]) if logits and isinstance(logits[0], int) else None
    return ModelInfo(
        name=path.name,
        stm=FILE,
        scale="",
        image_size=(int(sides[0]), int(sides[1])) if sides else None,
        num_classes=classes if classes and classes <= MAX_CLASSES else None,
        parameters=declared.parameters,
        weights=WeightsInfo(kind="file", source=path.name, sha256=declared.sha256),
    )


def _compared(
    path: Path,
    exporter: Exporter,
    spec: ExportSpec,
    draft: Draft,
    scratch: Path,
    declared: Declared,
) -> tuple[str, ...]:
    """Holds a converted file against ONNX Runtime; what came of it, in words."""
    target = exporter.target
    converted = path.suffix == ".onnx" and _PLAIN_RUNTIME not in target.runtimes
    if not converted or draft.not_run:
        return ()
    import numpy as np

    plain = exporter_for_runtime(_PLAIN_RUNTIME)
    if plain.unavailable():
        return (f"not compared with ONNX Runtime: {plain.unavailable()}",)
    batch = batch_of(draft.inputs) or 1
    run = RunSpec(target.runtimes[0], batch, available_threads(), precision=spec.precision)
    inputs = random_inputs(draft.inputs, batch, np.random.default_rng(_SEED))
    original = replace(run, runtime=_PLAIN_RUNTIME, precision=declared.precision)
    found = []
    main = scratch / draft.files[0]
    for loaded, where, how in ((plain, path, original), (exporter, main, run)):
        runner = loaded.load(where, how, _no_module)
        runner.prepare(*inputs)
        runner.run()
        found.append(
            [one.astype(np.float64) if one.dtype.kind == "f" else one for one in runner.outputs()]
        )
    errors = [
        float(np.linalg.norm(mine - theirs) / (np.linalg.norm(theirs) or 1.0))
        if mine.shape == theirs.shape
        else np.inf
        for theirs, mine in zip(*found, strict=True)
        if theirs.dtype.kind == "f"
    ]
    worst = max(errors, default=0.0)
    if spec.precision == declared.precision == FULL_PRECISION and not worst <= _ALLOWED:
        raise StmdeployError(
            f"{target.name} computes something else of {path.name} than ONNX Runtime does: outputs "
            f"differ by {worst:.1e} relative L2, allowed {_ALLOWED:.0e}",
            "take --runtime onnxruntime",
            ExitCode.OUTPUTS_DIFFER,
        )
    return (f"outputs differ from ONNX Runtime's by {worst:.1e} relative L2, for random inputs",)


def _no_module() -> nn.Module:
    raise AssertionError("a file asked for a module")
