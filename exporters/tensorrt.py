"""TensorRT engines: one code path for `tensorrt` 10.13 and later, 11, and `tensorrt_rtx`.

Always strongly typed: all precision lives in the ONNX graph. Names that only one of the
modules has are asked for with `hasattr`. Failures come as return values and log lines, rarely
as exceptions, so every return value is checked, and the log is kept.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.artifact import Draft, EngineInfo, read_artifact
from stmdeploy.contracts import ModuleFactory, Runner, Work
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files import sha256_of
from stmdeploy.spec import INPUT_NAME, EngineSpec, RunSpec

from .onnx_graph import PART_NOTE, OnnxFile, write_onnx
from .ort_session import OnnxRuntimeRunner, first_non_finite
from .precision import calibration_of, converted, emulated
from .tensorrt_log import fused_layers, memory_bytes, recording_logger
from .tensorrt_runner import TensorRtRunner, gpu_capability, why_no_gpu

if TYPE_CHECKING:
    from stmdeploy.contracts import Array

#: What the form ``tokens`` is made of, beyond what every parser has.
_TOKENS_OPERATORS = ("Attention", "DeformConv", "RMSNormalization")
_BYTES_PER_MIB = 2**20
#: A compute capability that TensorRT-RTX builds for when there is no GPU to ask.
_DEFAULT_CAPABILITY = "8.9"


class TensorRtExporter:
    """Exporter of target ``tensorrt``; `TensorRtRtxExporter` is the same for TensorRT-RTX."""

    target = "tensorrt"
    suffix = ".engine"
    runtimes: tuple[str, ...] = ("tensorrt",)
    tolerances = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2, "int8": None}  # noqa: RUF012
    module_name = "tensorrt"
    install = "pip install 'stmdeploy[gpu,tensorrt]'"

    @property
    def lowerings(self) -> tuple[str, ...]:
        """The operators of ``tokens`` where the parser takes them all, else plain ones."""
        plain_first = ("tokens-plain", "tokens", "reference")
        try:
            takes_all = _supports(import_module(self.module_name), *_TOKENS_OPERATORS)
        except (ImportError, StmdeployError):
            return plain_first
        return ("tokens", "tokens-plain", "reference") if takes_all else plain_first

    def unavailable(self) -> str:
        """Why this target cannot be used here; empty if it can."""
        missing = [name for name in (self.module_name, "onnxruntime") if not find_spec(name)]
        return f"{' and '.join(missing)} not installed: {self.install}" if missing else ""

    def export(self, work: Work) -> Draft:
        """Writes the engine, the layers it was fused into, and the ONNX file it is made of.

        Raises:
            StmdeployError: a node that TensorRT has no layer for, settings it does not take,
                or a build that failed; with the builder's own words.
        """
        trt = import_module(self.module_name)
        source = work.folder / f"{work.spec.stem}.{self.target}.onnx"
        file = converted(write_onnx(work, source), work)
        build = _Build(trt, work.spec.engine, work)
        network = build.parsed(file)
        start = time.perf_counter()
        engine = build.serialized(network)
        build_s = time.perf_counter() - start
        path = work.folder / (work.spec.stem + self.suffix)
        path.write_bytes(engine)
        layers = fused_layers(build.log.lines)
        listing = work.folder / f"{work.spec.stem}.{self.target}.layers.json"
        listing.write_text(json.dumps([layer.as_dict() for layer in layers], indent=1), "utf-8")
        return Draft(
            files=(path.name, listing.name, *file.files),
            inputs=file.inputs,
            outputs=file.outputs,
            opset=file.opset,
            operators=file.operators,
            versions={**file.versions, self.module_name: trt.__version__},
            engine=EngineInfo(
                module=self.module_name,
                version=trt.__version__,
                gpu=build.gpu,
                compute_capabilities=build.capabilities,
                batch=work.spec.engine.batch,
                builder_level=work.spec.engine.builder_level,
                workspace_mib=work.spec.engine.workspace_mib,
                layers_before=network.num_layers,
                layers_after=len(layers) or None,
                output_dtypes=dict(
                    Counter(dtype for layer in layers for dtype in layer.output_dtypes)
                ),
                weights_bytes=memory_bytes(build.log.lines, "Total Weights Memory"),
                activation_bytes=memory_bytes(build.log.lines, "Total Activation Memory"),
                onnx_sha256=sha256_of(source),
                build_s=build_s,
            ),
            calibration=calibration_of(work),
            graph=file.path.name,
            not_run=build.why_not_run(),
        )

    def import_engine(self) -> None:
        """Imports the TensorRT module and torch, which holds the device memory."""
        import torch  # noqa: F401

        import_module(self.module_name)

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> TensorRtRunner:
        """An execution context, after the manifest's hashes, version and GPU are checked.

        Raises:
            StmdeployError: a changed file, another version or GPU, or no GPU at all (5).
        """
        trt = import_module(self.module_name)
        info = read_artifact(path).manifest.engine
        if info is None or info.module != self.module_name:
            raise StmdeployError(f"{path} is no engine of {self.module_name}", "export it again")
        if info.version != trt.__version__:
            raise StmdeployError(
                f"{path} was built by {info.module} {info.version}, {trt.__version__} is installed",
                "engines only run on the version that built them: export it again",
            )
        least, _, most = info.batch
        if not least <= run.batch <= most:
            raise StmdeployError(
                f"{path} takes {least} to {most} images, not {run.batch}",
                "export it with another --batch MIN,OPT,MAX",
            )
        if reason := why_no_gpu():
            raise StmdeployError(
                f"{path} is built, not run: {reason}", "run it where a GPU is",
                ExitCode.WORKER_FAILED,
            )  # fmt: skip
        if info.compute_capabilities and gpu_capability() not in info.compute_capabilities:
            raise StmdeployError(
                f"{path} was built for compute capability {', '.join(info.compute_capabilities)}, "
                f"this GPU is {gpu_capability()}",
                "export it again with --compute-capability",
                ExitCode.WORKER_FAILED,
            )
        if run.device != "cuda":
            raise StmdeployError("engines run on a GPU", "name it, as in --gpu a100")
        return TensorRtRunner(trt, path, run, info)

    def check(self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory) -> Runner:
        """The engine where a GPU is; otherwise the very ONNX file the builder got, on ONNX
        Runtime's CPU, rounded as the engine would."""
        if draft.not_run:
            graph = path.with_name(draft.graph)
            short = run.precision in ("fp16", "bf16")
            return OnnxRuntimeRunner(emulated(graph) if short else graph, run)
        assert draft.engine is not None
        return TensorRtRunner(import_module(self.module_name), path, run, draft.engine)

    def explain(self, path: Path, draft: Draft, images: Array) -> str:
        """The first node of the ONNX file whose output is not finite."""
        graph = path.with_name(draft.graph)
        return first_non_finite(emulated(graph), images)


class TensorRtRtxExporter(TensorRtExporter):
    """Exporter of target ``tensorrt-rtx``: builds without a GPU, for compute capabilities."""

    target = "tensorrt-rtx"
    suffix = ".rtx.engine"
    runtimes = ("tensorrt-rtx",)
    module_name = "tensorrt_rtx"
    install = "pip install 'stmdeploy[cpu,tensorrt-rtx]'"


def _supports(trt: Any, *operators: str) -> bool:
    """Whether the parser has layers for ONNX operators."""
    log = recording_logger(trt)
    network = _builder(trt, log).create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    return all(parser.supports_operator(operator) for operator in operators)


def _builder(trt: Any, log: Any) -> Any:
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # classic TensorRT, where no GPU is found
        raise StmdeployError(
            f"{trt.__name__} cannot make a builder: it needs an NVIDIA GPU and driver",
            "build where the GPU is, or take --target tensorrt-rtx",
            ExitCode.WORKER_FAILED,
        ) from error
    return builder


def _strongly_typed(trt: Any) -> int:
    return int(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


@dataclass
class _Build:
    """One build: builder, log and settings; `parsed`, then `serialized`."""

    trt: Any
    spec: EngineSpec
    work: Work

    def __post_init__(self) -> None:
        self.log = recording_logger(self.trt)
        self.builder = _builder(self.trt, self.log)
        self.gpu = ""
        self.capabilities: tuple[str, ...] = ()

    def parsed(self, file: OnnxFile) -> Any:
        """The network of an ONNX file.

        Raises:
            StmdeployError: names the first node that is refused, its mixer and stage.
        """
        network = self.builder.create_network(_strongly_typed(self.trt))
        parser = self.trt.OnnxParser(network, self.log)
        if not parser.parse_from_file(str(file.path)):
            raise _refusal(self.trt, parser, file, self.work)
        return network

    def serialized(self, network: Any) -> bytes:
        """The engine.

        Raises:
            StmdeployError: the builder gives none; with its first error.
        """
        config = self._config(network)
        engine = self.builder.build_serialized_network(network, config)
        if engine is None:
            raise StmdeployError(
                f"{self.trt.__name__} built no engine of {self.work.spec.model.name}: "
                f"{self.log.first_error() or 'it gives no reason'}",
                "try another precision, batch range or compute capability",
            )
        self._keep_timing_cache(config)
        return bytes(engine)

    def _config(self, network: Any) -> Any:
        trt, spec = self.trt, self.spec
        config = self.builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if hasattr(trt.BuilderFlag, "TF32"):
            # float32 means float32: TensorFloat-32 would be another precision.
            config.clear_flag(trt.BuilderFlag.TF32)
        if spec.workspace_mib is not None:
            limit = spec.workspace_mib * _BYTES_PER_MIB
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
        if spec.builder_level is not None:
            config.builder_optimization_level = spec.builder_level
        config.add_optimization_profile(self._profile(network))
        self.monitor = _progress_monitor(trt, self.work.tell)
        config.progress_monitor = self.monitor
        self._set_target(config)
        if spec.timing_cache is not None:
            self._load_timing_cache(config, spec.timing_cache)
        return config

    def _profile(self, network: Any) -> Any:
        profile = self.builder.create_optimization_profile()
        image = tuple(network.get_input(0).shape)[1:]
        shapes = [(batch, *image) for batch in self.spec.batch]
        profile.set_shape(INPUT_NAME, *shapes)
        if not profile:
            raise StmdeployError(f"batches {self.spec.batch} make no optimization profile")
        return profile

    def _set_target(self, config: Any) -> None:
        """Compute capabilities where the builder takes them; otherwise the GPU that is here."""
        if not hasattr(config, "set_compute_capability"):
            if self.spec.compute_capabilities:
                raise StmdeployError(
                    f"{self.trt.__name__} builds for the GPU that is there",
                    "leave --compute-capability out, or take --target tensorrt-rtx",
                )
            import torch

            self.gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
            return
        here = gpu_capability()
        default = here if here in _capabilities(self.trt) else _DEFAULT_CAPABILITY
        self.capabilities = self.spec.compute_capabilities or (default,)
        config.num_compute_capabilities = len(self.capabilities)
        for index, capability in enumerate(self.capabilities):
            if not config.set_compute_capability(_capability(self.trt, capability), index):
                raise StmdeployError(
                    f"{self.trt.__name__} refuses compute capability {capability}",
                    self.log.first_error(),
                )

    def why_not_run(self) -> str:
        """Why the engine cannot run on this machine; empty if it can."""
        here = gpu_capability()
        if here and self.capabilities and here not in self.capabilities:
            return (
                f"built for compute capability {', '.join(self.capabilities)}, this GPU is {here}"
            )
        return why_no_gpu()

    def _load_timing_cache(self, config: Any, path: Path) -> None:
        if hasattr(config, "set_compute_capability"):
            raise StmdeployError(
                f"{self.trt.__name__} measures nothing while it builds, so it has no timing cache",
                "leave --timing-cache-file out",
            )
        stored = path.read_bytes() if path.is_file() else b""
        if not config.set_timing_cache(config.create_timing_cache(stored), False):
            raise StmdeployError(
                f"{path} is no timing cache of this {self.trt.__name__} and GPU", "name another"
            )

    def _keep_timing_cache(self, config: Any) -> None:
        if self.spec.timing_cache is not None:
            from stmdeploy.files import write_atomically

            write_atomically(self.spec.timing_cache, bytes(config.get_timing_cache().serialize()))


def _capability(trt: Any, text: str) -> Any:
    """``8.9`` -> ``ComputeCapability.SM89``."""
    known = _capabilities(trt)
    if text not in known:
        raise StmdeployError(
            f"{trt.__name__} does not build for compute capability {text!r}",
            f"choose from: {', '.join(known)}",
        )
    return known[text]


def _capabilities(trt: Any) -> dict[str, Any]:
    """What a module builds for: ``{"8.9": ComputeCapability.SM89, ...}``, lowest first."""
    members = {
        int(found.group(1)): getattr(trt.ComputeCapability, found.group(0))
        for found in map(re.compile(r"SM(\d+)").fullmatch, dir(trt.ComputeCapability))
        if found
    }
    return {f"{number // 10}.{number % 10}": members[number] for number in sorted(members)}


def _refusal(trt: Any, parser: Any, file: OnnxFile, work: Work) -> StmdeployError:
    """What the parser did not take: the node, where it belongs, and the parser's words."""
    import onnx

    error = parser.get_error(0) if parser.num_errors else None
    name = error.node_name() if error else ""
    parts = {
        node.name: {note.key: note.value for note in node.metadata_props}.get(PART_NOTE, "")
        for node in onnx.load(file.path, load_external_data=False).graph.node
    }
    operator = error.node_operator() if error else "a node"
    where = f"{parts.get(name) or 'an unknown part'} of {work.spec.model.name}"
    reason = " ".join(error.desc().split())[:200] if error else "the parser gives no reason"
    return StmdeployError(
        f"{trt.__name__} {trt.__version__} has no layer for {operator} {name!r} in {where}: "
        f"{reason}",
        "leave --lowering out, so that the form is chosen by what the parser supports"
        if work.spec.lowering
        else "take another target",
    )


def _progress_monitor(trt: Any, tell: Any) -> Any:
    """Tells of the builder's outermost phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                tell(f"{trt.__name__}: {phase}, {steps} steps")

        def step_complete(self, phase: str, step: int) -> bool:
            return True

        def phase_finish(self, phase: str) -> None:
            return

    return Monitor()
