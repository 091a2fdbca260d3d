"""The ways to run a model that race: artifacts first, then settings of the runtimes of the best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from stmdeploy.artifacts.outside import FILE
from stmdeploy.artifacts.promises import forms_for, why_not
from stmdeploy.backbones.catalogue import BackboneConfig, resolve
from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.plugins.exporter import EngineBuilder, Exporter
from stmdeploy.plugins.registry import exporter_for_runtime, exporters
from stmdeploy.spec.export import FULL_PRECISION, GPU, REFERENCE, EngineSpec
from stmdeploy.spec.model import CLASSIFICATION, FileSpec
from stmdeploy.spec.run import PROVIDERS, RunSettings, RunSpec
from stmdeploy.spec.tuning import TuneSpec

#: Where a user begins: the runtime of the default profile.
USUAL_RUNTIME = "onnxruntime"
#: A processor computes it in float32, and a file of it is no faster; it races if it is named.
_NOT_ON_CPU = ("fp16",)
#: Settings that are not said where they are these.
_USUAL = RunSettings()


@dataclass(frozen=True)
class Candidate:
    """A way to run a model.

    Attributes:
        target: target of its artifact.
        form: form of the model in it.
        run: how it is run, its precision included.
        parent: name of the candidate that it differs from in settings alone; empty for none.
    """

    target: str
    form: str
    run: RunSpec
    parent: str = ""

    @property
    def name(self) -> str:
        """What tells it from the others of a race."""
        run, told = self.run, [f"{self.run.runtime} {self.run.precision} {self.form}"]
        told.append(f"batch {run.batch}, {run.threads} threads")
        if run.in_flight > 1:
            told.append(f"{run.in_flight} in flight")
        told += [f"{flag} {value}" for flag, value in self.settings.items()]
        return ", ".join(told)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that are not the usual ones, by their flags without dashes."""
        mine = self.run.settings
        told = {
            "provider": mine.provider,
            "hint": mine.hint,
            "torch_mode": mine.torch_mode,
            "channels_last": mine.channels_last,
            "spinning": mine.spinning,
            "flush_denormals": mine.flush_denormals,
            "graph_optimization": mine.graph_optimization,
            "inter_op_threads": mine.inter_op_threads,
        }
        found = {k: v for k, v in told.items() if v != getattr(_USUAL, k)}
        if mine.engine.builder_level is not None:
            found["builder_optimization_level"] = mine.engine.builder_level
        return found

    @property
    def engine(self) -> EngineSpec:
        """What builds its engine: for its own batch, lest kernels be chosen for another."""
        builds = isinstance(exporters()[self.target], EngineBuilder) or self.run.gpu_provider
        return self.run.settings.engine.for_batch(self.run.batch) if builds else EngineSpec()

    @property
    def artifact_key(self) -> tuple[Any, ...]:
        """What its artifact depends on; candidates with the same share it."""
        run = self.run
        return self.target, run.precision, self.form, self.engine, run.gpu_provider


def usual(spec: TuneSpec) -> Candidate:
    """What is run unless told otherwise: the usual form in ONNX Runtime, in float32."""
    if spec.model.file is not None:
        return _of_file(spec, *spec.model.file.ways[0], spec.runs[0])
    config = _config(spec)
    run = _run(spec.runs[0], USUAL_RUNTIME, FULL_PRECISION, spec.threads[0])
    exporter = exporter_for_runtime(USUAL_RUNTIME)
    return Candidate("onnx", _forms(spec, config, exporter, run, every=True)[0], run)


def reference(spec: TuneSpec) -> Candidate:
    """The model as it is, through torch.onnx, in ONNX Runtime; a file is what it is."""
    if spec.model.file is not None:
        return usual(spec)
    run = _run(spec.runs[0], USUAL_RUNTIME, FULL_PRECISION, spec.threads[0])
    return Candidate("onnx", REFERENCE, run)


def artifacts(spec: TuneSpec) -> tuple[Candidate, ...]:
    """Every runtime, precision and form that may win, with the runtime's usual settings.

    Raises:
        StmdeployError: an unknown or missing runtime; a precision or form that none of them has.
    """
    if spec.model.file is not None:
        return _of_the_file(spec, spec.model.file)
    config, found = _config(spec), []
    for runtime in spec.runtimes or _runtimes_here(spec.runs[0].device):
        exporter = exporter_for_runtime(runtime)
        if spec.runs[0].device not in exporter.target.devices:
            able = " and ".join(exporter.target.devices)
            raise StmdeployError(f"{runtime} runs on {able} only", "leave it out of --runtime")
        for precision in exporter.target.tolerances:
            if not _may_be(spec, precision):
                continue
            for place in spec.runs:
                run = _run(place, runtime, precision, spec.threads[0])
                found += [
                    Candidate(exporter.target.name, form, run)
                    for form in _forms(spec, config, exporter, run)
                ]
    if not found:
        raise StmdeployError("nothing is left to race", "name fewer of --precision and --lowering")
    return tuple(dict.fromkeys(found))


def _of_the_file(spec: TuneSpec, file: FileSpec) -> tuple[Candidate, ...]:
    """Every way of running a file that may win.

    Raises:
        StmdeployError: there is none.
    """
    device, own = spec.runs[0].device, exact_precision(spec)
    found = [
        _of_file(spec, runtime, precision, place)
        for runtime, precision in file.ways
        if device in exporter_for_runtime(runtime).target.devices
        if precision == own or _may_be(spec, precision)
        for place in spec.runs
    ]
    if not found:
        raise StmdeployError("nothing is left to race", "name fewer of --runtime and --precision")
    return tuple(dict.fromkeys(found))


def _of_file(spec: TuneSpec, runtime: str, precision: str, place: RunSpec) -> Candidate:
    run = _run(place, runtime, precision, spec.threads[0])
    return Candidate(exporter_for_runtime(runtime).target.name, FILE, run)


def exact_precision(spec: TuneSpec) -> str:
    """The precision that keeps a model as it is: float32, or that of a file."""
    return spec.model.file.ways[0][1] if spec.model.file is not None else FULL_PRECISION


def variants(spec: TuneSpec, candidate: Candidate) -> Iterator[Candidate]:
    """The same artifact under other settings of its runtime."""
    run = candidate.run
    parent = candidate.name
    for changed in _settings(candidate):
        yield replace(candidate, run=replace(run, settings=changed), parent=parent)
    for threads in spec.threads[1:]:
        yield replace(candidate, run=replace(run, threads=threads), parent=parent)


def _settings(candidate: Candidate) -> Iterator[RunSettings]:
    run = candidate.run
    settings, on_cpu = run.settings, run.device == "cpu"
    if run.runtime == "onnxruntime" and on_cpu:
        yield replace(settings, spinning=False)
        yield replace(settings, flush_denormals=True)
        yield replace(settings, graph_optimization="extended")
        if run.threads > 1:
            yield replace(settings, inter_op_threads=2)
    elif run.runtime == "openvino":
        yield replace(settings, hint="throughput")
    elif run.runtime in ("torch", "torch-compile", "aotinductor") and on_cpu:
        yield replace(settings, flush_denormals=True)
        if run.runtime != "aotinductor":
            yield replace(settings, channels_last=True)
    elif run.runtime == "torch-compile":
        yield replace(settings, torch_mode="max-autotune")
    elif isinstance(exporters()[candidate.target], EngineBuilder):
        yield replace(settings, engine=replace(settings.engine, builder_level=5))


def _run(place: RunSpec, runtime: str, precision: str, threads: int) -> RunSpec:
    settings = place.settings
    if runtime != "onnxruntime" and settings.provider in PROVIDERS:
        settings = replace(settings, provider="")
    return replace(place, runtime=runtime, precision=precision, threads=threads, settings=settings)


def _runtimes_here(device: str) -> list[str]:
    """The runtimes that are installed and run on a device."""
    return [
        runtime
        for exporter in exporters().values()
        if device in exporter.target.devices and not exporter.unavailable()
        for runtime in exporter.target.runtimes
    ]


def _may_be(spec: TuneSpec, precision: str) -> bool:
    if precision in _NOT_ON_CPU and spec.runs[0].device == "cpu":
        return precision in spec.precisions
    return spec.may_be(precision)


def _forms(
    spec: TuneSpec,
    config: BackboneConfig | None,
    exporter: Exporter,
    run: RunSpec,
    *,
    every: bool = False,
) -> list[str]:
    """The forms of the model that may win on a runtime in a precision, the usual one first.

    Args:
        every: whether `lowerings` of the spec are looked past.
    """
    precision, provider = run.precision, run.gpu_provider
    forms = forms_for(config, exporter, precision, None, provider)
    if config is not None:
        task = spec.model.task
        forms = [
            f for f in forms if not why_not(config, exporter, precision, f, task, provider)
        ] or forms[:1]  # fmt: skip
    if spec.lowerings and not every:
        return [form for form in forms if form in spec.lowerings]
    if run.device == "cpu":
        forms = [form for form in forms if form != GPU] or forms
    # In a low precision the plain form only costs time: where it wins, its float32 does, too.
    lowered = [form for form in forms if form != REFERENCE]
    return forms if precision == FULL_PRECISION else lowered or forms


def _config(spec: TuneSpec) -> BackboneConfig | None:
    return None if spec.model.is_custom else resolve(spec.model.name)


def check_tune(spec: TuneSpec) -> None:
    """Raises StmdeployError for what cannot be tuned at all."""
    if spec.model.task != CLASSIFICATION and spec.limits.any:
        raise StmdeployError(
            "a detection backbone gives maps, not classes",
            "leave the limits out: then only exact configurations race",
        )
    known = [name for exporter in exporters().values() for name in exporter.target.runtimes]
    if spec.model.file is not None and spec.limits.any and spec.model.num_classes is None:
        raise StmdeployError(
            f"{spec.model.name} does not map images to logits alone, so no limit can be tested",
            "leave the limits out: then it races as it is",
        )
    for runtime in spec.runtimes:
        if runtime not in known:
            raise StmdeployError(f"unknown runtime {runtime!r}", nearest(runtime, known))
