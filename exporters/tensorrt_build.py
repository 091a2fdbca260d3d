"""One TensorRT build: parser, network, settings, engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files.reading import BYTES_PER_MIB, one_line
from stmdeploy.files.writing import write_atomically
from stmdeploy.schema.onnx_files import PART_NOTE
from stmdeploy.spec.export import EngineSpec

from .onnx_graph import graph_of, notes_of
from .operator_times import PART_MARK, parts_of
from .tensorrt_log import recording_logger
from .tensorrt_runner import gpu_capability, why_no_gpu

#: The compute capability that TensorRT-RTX builds for by default where there is no GPU.
_DEFAULT_CAPABILITY = "8.9"
#: The compute capability that fp8 begins with.
_LEAST_FOR_FP8 = 8.9


def check_fp8(capabilities: Sequence[str]) -> None:
    """Raises StmdeployError if a GPU has no products of fp8: one of the given compute capabilities,
    or without any the GPU here."""
    here = gpu_capability()
    for capability in capabilities or ([here] if here else []):
        if float(capability) < _LEAST_FOR_FP8:
            raise StmdeployError(
                f"compute capability {capability} has no fp8",
                f"take --precision int8, or a GPU of {_LEAST_FOR_FP8} or later",
            )


def make_builder(trt: Any, log: Any) -> Any:
    """The builder of networks and engines; classic TensorRT has one only where a GPU is."""
    try:
        return trt.Builder(log)
    except TypeError as error:  # classic TensorRT, where no GPU is found
        raise StmdeployError(
            f"{trt.__name__} cannot make a builder: it needs an NVIDIA GPU and driver",
            "export on a machine with a GPU, or choose --target tensorrt-rtx",
            ExitCode.WORKER_FAILED,
        ) from error


def _network(trt: Any, builder: Any, log: Any) -> tuple[Any, Any]:
    """An empty network, strongly typed, and the parser that fills it."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return network, trt.OnnxParser(network, log)


@dataclass
class Build:
    """One build: call `parsed`, then `serialized`."""

    trt: Any
    spec: EngineSpec
    model: str
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        self.log = recording_logger(self.trt)
        self.builder = make_builder(self.trt, self.log)
        self.gpu = ""
        self.capabilities: tuple[str, ...] = ()

    def parsed(self, path: Path) -> Any:
        """Parses an ONNX file into a network, its layers named after their parts; for one batch
        alone, its shapes are fixed, so that the builder fuses more.

        Raises:
            StmdeployError: a node is refused; names the first one and its part.
        """
        network, parser = _network(self.trt, self.builder, self.log)
        if not parser.parse_from_file(str(path)):
            raise _refusal(self.trt, parser, path, self.model)
        if self.spec.only_batch is not None:
            image = network.get_input(0)
            image.shape = (self.spec.only_batch, *tuple(image.shape)[1:])
        parts = parts_of(path)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if part := parts.get(layer.name):
                layer.name = f"{part}{PART_MARK}{layer.name}"
            self._let_it_decompose(layer)
        return network

    def _let_it_decompose(self, layer: Any) -> None:
        """Lets the builder take an Attention apart where it has no fused kernel for it: by default
        it then builds nothing."""
        if layer.type == getattr(self.trt.LayerType, "ATTENTION_INPUT", None):
            layer.__class__ = self.trt.IAttentionInputLayer
            layer.attention.decomposable = True

    def serialized(self, network: Any) -> bytes:
        """Builds the engine of a network.

        Raises:
            StmdeployError: the build failed, with the builder's first error; or a setting that
                this TensorRT does not take.
        """
        config = self._config(network)
        engine = self.builder.build_serialized_network(network, config)
        if engine is None:
            raise StmdeployError(
                f"{self.trt.__name__} built no engine of {self.model}: {self.log.first_error()}",
                "try another --precision, --batch or --compute-capability",
            )
        if self.spec.timing_cache is not None:
            write_atomically(self.spec.timing_cache, bytes(config.get_timing_cache().serialize()))
        return bytes(engine)

    def _config(self, network: Any) -> Any:
        trt, spec = self.trt, self.spec
        config = self.builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if hasattr(trt.BuilderFlag, "TF32"):
            # float32 means float32: TensorFloat-32 would be another precision.
            config.clear_flag(trt.BuilderFlag.TF32)
        if spec.workspace_mib is not None:
            limit = spec.workspace_mib * BYTES_PER_MIB
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
        shapes = []
        for place in range(network.num_inputs):
            given = network.get_input(place)
            shapes = self._shapes(tuple(given.shape))
            profile.set_shape(given.name, *shapes)
        if not profile:
            raise StmdeployError(
                f"shapes {', '.join('x'.join(map(str, one)) for one in shapes)} make no "
                "optimization profile",
                "give --batch MIN,OPT,MAX",
            )
        return profile

    def _shapes(self, declared: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The least, the best and the largest shape of an input: its batch, and the sides of images
        where they are open."""
        sizes, of = [declared[1:]] * 3, self.spec.sizes
        if of is not None and -1 in declared[1:]:
            sizes = [(declared[1], *size) for size in (of.least, of.best, of.most)]
        first = self.spec.batch if declared[:1] == (-1,) else (declared[:1] or ((),)) * 3
        return [
            (n, *size) if isinstance(n, int) else size for n, size in zip(first, sizes, strict=True)
        ]

    def _set_target(self, config: Any) -> None:
        """Sets the compute capabilities, if the builder takes any; else notes the GPU here."""
        if not hasattr(config, "set_compute_capability"):
            if self.spec.compute_capabilities:
                raise StmdeployError(
                    f"{self.trt.__name__} builds only for the GPU of this machine",
                    "leave --compute-capability out, or choose --target tensorrt-rtx",
                )
            import torch

            self.gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
            return
        here, known = gpu_capability(), _capabilities(self.trt)
        default = here if here in known else _DEFAULT_CAPABILITY
        self.capabilities = self.spec.compute_capabilities or (default,)
        config.num_compute_capabilities = len(self.capabilities)
        for index, capability in enumerate(self.capabilities):
            if capability not in known:
                raise StmdeployError(
                    f"{self.trt.__name__} does not build for compute capability {capability!r}",
                    f"choose from: {', '.join(known)}",
                )
            if not config.set_compute_capability(known[capability], index):
                raise StmdeployError(
                    f"{self.trt.__name__} refuses compute capability {capability}: "
                    f"{self.log.first_error()}",
                    f"choose another of: {', '.join(known)}",
                )

    def why_not_run(self) -> str:
        """Why the engine cannot run on this machine; empty if it can."""
        here = gpu_capability()
        if here and self.capabilities and here not in self.capabilities:
            built_for = ", ".join(self.capabilities)
            return f"built for compute capability {built_for}, but this GPU is {here}"
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
                f"{path} is not a timing cache of this {self.trt.__name__} and GPU",
                "name another file with --timing-cache-file",
            )


def _capabilities(trt: Any) -> dict[str, Any]:
    """The capabilities a module knows: ``{"8.9": ComputeCapability.SM89, ...}``, lowest first."""
    known = trt.ComputeCapability
    numbers = sorted(map(int, re.findall(r"\bSM(\d+)\b", " ".join(dir(known)))))
    return {f"{number // 10}.{number % 10}": getattr(known, f"SM{number}") for number in numbers}


def _refusal(trt: Any, parser: Any, path: Path, model: str) -> StmdeployError:
    """The error for what the parser refused: the node, its part, and the parser's words."""
    error = parser.get_error(0) if parser.num_errors else None
    name = error.node_name() if error else ""
    parts = {node.name: notes_of(node).get(PART_NOTE) for node in graph_of(path).node}
    operator = error.node_operator() if error else "a node"
    where = f"{parts.get(name) or 'an unknown part'} of {model}"
    reason = one_line(error.desc())[:200] if error else "no reason is given"
    return StmdeployError(
        f"{trt.__name__} {trt.__version__} has no layer for {operator} {name!r} in {where}: "
        f"{reason}",
        "leave --lowering out, to get a form that the parser supports, or choose another --target",
    )


def _progress_monitor(trt: Any, tell: Any) -> Any:
    """A monitor that reports the builder's outermost phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                tell(f"{trt.__name__}: {phase}, {steps} steps")

        def step_complete(self, phase: str, step: int) -> bool:
            return True

        def phase_finish(self, phase: str) -> None:
            return

    return Monitor()
