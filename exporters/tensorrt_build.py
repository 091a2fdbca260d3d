"""One TensorRT build: parser, network, settings, engine; every return value checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.spec import INPUT_NAME, EngineSpec

from .onnx_graph import PART_NOTE, OnnxFile
from .operator_times import PART_MARK, parts_of
from .tensorrt_log import recording_logger
from .tensorrt_runner import gpu_capability, why_no_gpu

_BYTES_PER_MIB = 2**20
#: A compute capability that TensorRT-RTX builds for when there is no GPU to ask.
_DEFAULT_CAPABILITY = "8.9"


def supports(trt: Any, *operators: str) -> bool:
    """Whether the parser has layers for ONNX operators."""
    log = recording_logger(trt)
    network = make_builder(trt, log).create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    return all(parser.supports_operator(operator) for operator in operators)


def make_builder(trt: Any, log: Any) -> Any:
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
class Build:
    """One build: builder, log and settings; `parsed`, then `serialized`."""

    trt: Any
    spec: EngineSpec
    model: str
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        self.log = recording_logger(self.trt)
        self.builder = make_builder(self.trt, self.log)
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
            raise _refusal(self.trt, parser, file, self.model)
        parts = parts_of(file.path)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if part := parts.get(layer.name):
                layer.name = f"{part}{PART_MARK}{layer.name}"
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
                f"{self.trt.__name__} built no engine of {self.model}: "
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
        self.monitor = _progress_monitor(trt, self.tell)
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


def _refusal(trt: Any, parser: Any, file: OnnxFile, model: str) -> StmdeployError:
    """What the parser did not take: the node, where it belongs, and the parser's words."""
    import onnx

    error = parser.get_error(0) if parser.num_errors else None
    name = error.node_name() if error else ""
    parts = {
        node.name: {note.key: note.value for note in node.metadata_props}.get(PART_NOTE, "")
        for node in onnx.load(file.path, load_external_data=False).graph.node
    }
    operator = error.node_operator() if error else "a node"
    where = f"{parts.get(name) or 'an unknown part'} of {model}"
    reason = " ".join(error.desc().split())[:200] if error else "the parser gives no reason"
    return StmdeployError(
        f"{trt.__name__} {trt.__version__} has no layer for {operator} {name!r} in {where}: "
        f"{reason}",
        "leave --lowering out, so that the form is chosen by what the parser supports, or take "
        "another target",
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
