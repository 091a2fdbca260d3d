"""TensorRT engines: one code path for `tensorrt` 10.13 and later, 11, and `tensorrt_rtx`.

Networks are strongly typed: all precision lives in the ONNX graph. `hasattr` finds the names that
only one of the modules has. TensorRT reports failures by return values and log lines, rarely by
exceptions, so every return value is checked, and the log is kept.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files.writing import sha256_of
from stmdeploy.plugins.exporter import (
    Adoption,
    BuildWork,
    Declared,
    Exporter,
    Target,
    Work,
)
from stmdeploy.plugins.runner import Array, Inputs, ModuleFactory, Runner
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.schema.manifest import Draft, EngineInfo
from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.run import RunSpec

from .onnx import not_installed
from .onnx_graph import described, write_onnx
from .operator_times import Inferences, of_tensorrt, parts_of
from .ort_session import OnnxRuntimeRunner, first_non_finite
from .outside import adopt_onnx, declared_onnx, with_shapes
from .precision import converted, emulated
from .tensorrt_build import Build, check_fp8
from .tensorrt_log import fused_layers, memory_bytes
from .tensorrt_runner import (
    TensorRtRunner,
    declared_engine,
    engine_info,
    gpu_capability,
    why_no_gpu,
)


class TensorRtExporter(Exporter):
    """Exporter of target ``tensorrt``; `TensorRtRtxExporter` is the same for TensorRT-RTX."""

    name, suffix = "tensorrt", ".engine"
    module_name = package = "tensorrt"
    install = "pip install 'stmdeploy[gpu,tensorrt]'"
    lowerings = ("gpu", "tokens-plain", "tokens", "reference")

    @property
    def target(self) -> Target:
        return Target(
            name=self.name,
            suffix=self.suffix,
            runtimes=(self.name,),
            tolerances={"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2, "int8": None, "fp8": None},
            travels="source",
            dynamic_size=True,
            mixes=("fp16", "bf16", "int8", "fp8"),
            packages=(self.package,),
            devices=("cuda",),
        )

    def unavailable(self, *, source_only: bool = False) -> str:
        wanted = ("onnxruntime",) if source_only else (self.module_name, "onnxruntime")
        return not_installed(wanted, self.install)

    def export(self, work: Work) -> Draft:
        """Writes the engine, a list of its fused layers, and the ONNX file it is made from; only
        that file, if the engine is to be built elsewhere.

        Raises:
            StmdeployError: a node that TensorRT has no layer for, settings it does not take, or a
                failed build; in the builder's own words.
        """
        engine, suffix = work.spec.engine, f".{self.name}.onnx"
        if work.spec.precision == "fp8":
            check_fp8(engine.compute_capabilities)
        if engine.only_batch is not None and not work.spec.source_only:
            suffix = f"-batch{engine.only_batch}{suffix}"
        source = converted(write_onnx(work, suffix), work, rest_of_int8="fp16")
        if work.spec.source_only:
            return source.model_copy(update={"not_run": "its engine is built where it runs"})
        if work.spec.dynamic_size:
            engine = replace(engine, sizes=work.spec.sizes)
        build_work = BuildWork(engine, work.folder, work.tell)
        return self._built(source, work.spec.model.name, build_work)

    @property
    def adopts(self) -> tuple[str, ...]:
        """ONNX files, of which engines are built, and engines."""
        return (f".{self.suffix.rpartition('.')[2]}", ".onnx")

    def precisions(self, of_file: str) -> tuple[str, ...]:
        """That of the file: networks are strongly typed."""
        return (of_file,) if of_file in self.target.tolerances else ()

    def declared(self, path: Path) -> Declared:
        """Reads the graph, or the engine.

        Raises:
            StmdeployError: it is damaged, or an engine of another version or GPU.
        """
        if path.suffix == ".onnx":
            return declared_onnx(path)
        return declared_engine(import_module(self.module_name), path)

    def adopt(self, work: Adoption) -> Draft:
        """Builds the engine of a graph; or copies an engine."""
        if work.path.suffix == ".onnx":
            source = adopt_onnx(work, f".{self.name}.onnx")
            with_shapes(work.folder / source.graph, work.inputs)
            return self._built(
                source, work.path.stem, BuildWork(work.engine, work.folder, work.tell)
            )
        shutil.copyfile(work.path, work.folder / work.path.name)
        info = engine_info(import_module(self.module_name), work.path)
        return Draft(files=(work.path.name,), inputs=work.inputs, outputs=work.outputs, engine=info)

    def engine_key(self, engine: EngineSpec) -> dict[str, str]:
        """The builder, its version, and the compute capabilities that it builds for."""
        trt = import_module(self.module_name)
        asked = ",".join(engine.compute_capabilities)
        return {
            "builder": f"{self.module_name} {trt.__version__}",
            "compute capability": asked or gpu_capability(),
        }

    def build(self, source: Artifact, work: BuildWork) -> Draft:
        """Builds the engine of a source for this machine's GPU; writes what `export` does.

        Raises:
            StmdeployError: as `export`.
        """
        names = [file.name for file in source.manifest.files]
        for name in names:
            shutil.copyfile(source.path.with_name(name), work.folder / name)
        draft = described(work.folder / names[0], tuple(names[1:]))
        draft = draft.model_copy(update={"calibration": source.manifest.calibration})
        return self._built(draft, source.manifest.model.name, work)

    def _built(self, source: Draft, model: str, work: BuildWork) -> Draft:
        """Builds the engine of an ONNX file in the work's folder, and lists its layers."""
        trt = import_module(self.module_name)
        graph = work.folder / source.graph
        stem = source.graph.removesuffix(f".{self.name}.onnx")
        build = Build(trt, work.engine, model, work.tell)
        network = build.parsed(graph)
        start = time.perf_counter()
        engine = build.serialized(network)
        build_s = time.perf_counter() - start
        path = work.folder / (stem + self.suffix)
        path.write_bytes(engine)
        layers = fused_layers(build.log.lines, parts_of(graph))
        listing = work.folder / f"{stem}.{self.name}.layers.json"
        listing.write_text(json.dumps([layer.model_dump() for layer in layers], indent=1), "utf-8")
        info = EngineInfo(
            module=self.module_name,
            version=trt.__version__,
            gpu=build.gpu,
            compute_capabilities=build.capabilities,
            batch=work.engine.batch,
            builder_level=work.engine.builder_level,
            workspace_mib=work.engine.workspace_mib,
            layers_before=network.num_layers,
            layers_after=len(layers) or None,
            output_dtypes=dict(Counter(dtype for layer in layers for dtype in layer.output_dtypes)),
            weights_bytes=memory_bytes(build.log.lines, "Total Weights Memory"),
            activation_bytes=memory_bytes(build.log.lines, "Total Activation Memory"),
            onnx_sha256=sha256_of(graph),
            build_s=build_s,
        )
        return source.model_copy(
            update={
                "files": (path.name, listing.name, *source.files),
                "versions": {**source.versions, self.module_name: trt.__version__},
                "engine": info,
                "not_run": build.why_not_run(),
            }
        )

    def import_runtime(self) -> None:
        """Imports the TensorRT module and torch, which holds the device memory."""
        import torch  # noqa: F401

        import_module(self.module_name)

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> TensorRtRunner:
        """Loads the engine, once the manifest's hashes, version and GPU are checked.

        Raises:
            StmdeployError: a changed file, another version or GPU, or no GPU at all (exit code 5).
        """
        trt = import_module(self.module_name)
        info = read_artifact(path).manifest.engine
        if info is None or info.module != self.module_name:
            raise StmdeployError(
                f"{path} is no engine of {self.module_name}", f"export it with --target {self.name}"
            )
        if info.version != trt.__version__:
            raise StmdeployError(
                f"{path} was built by {info.module} {info.version}, {trt.__version__} is installed",
                "export it again: engines only run on the version that built them",
            )
        least, _, most = info.batch
        if not least <= run.batch <= most:
            raise StmdeployError(
                f"{path} takes {least} to {most} images, not {run.batch}",
                "export it with another --batch MIN,OPT,MAX",
            )
        if reason := why_no_gpu():
            raise StmdeployError(
                f"{path} is built, not run: {reason}", "run it on a machine with an NVIDIA GPU",
                ExitCode.WORKER_FAILED,
            )  # fmt: skip
        if info.compute_capabilities and gpu_capability() not in info.compute_capabilities:
            raise StmdeployError(
                f"{path} was built for compute capability {', '.join(info.compute_capabilities)}, "
                f"but this GPU is {gpu_capability()}",
                f"export it again with --compute-capability {gpu_capability()}",
                ExitCode.WORKER_FAILED,
            )
        if run.device != "cuda":
            raise StmdeployError("engines run only on a GPU", "name it, as in --gpu a100")
        return TensorRtRunner(trt, path, run, info)

    def load_draft(self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory) -> Runner:
        """Loads the engine; where it cannot run, the ONNX file that the builder read, on the CPU by
        ONNX Runtime, rounding as the engine would."""
        if draft.not_run:
            graph = path.with_name(draft.graph)
            short = run.precision != "fp32"
            return OnnxRuntimeRunner(emulated(graph) if short else graph, run)
        assert draft.engine is not None
        return TensorRtRunner(import_module(self.module_name), path, run, draft.engine)

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, inputs: Inputs, repeats: int
    ) -> Inferences:
        """Measures with TensorRT's profiler, on a GPU; `build` is not used."""
        # A CUDA graph would be replayed past the profiler.
        plain = replace(run, settings=replace(run.settings, cuda_graph=False))
        runner = self.load(path, plain, build)
        runner.prepare(*inputs)
        return of_tensorrt(import_module(self.module_name), runner, repeats)

    def explain(self, path: Path, draft: Draft, images: Array) -> str:
        """Names the first node of the ONNX file whose output is not finite."""
        graph = path.with_name(draft.graph)
        return first_non_finite(emulated(graph), images)


class TensorRtRtxExporter(TensorRtExporter):
    """Exporter of target ``tensorrt-rtx``: builds without a GPU, for compute capabilities."""

    name, suffix = "tensorrt-rtx", ".rtx.engine"
    module_name, package = "tensorrt_rtx", "tensorrt-rtx-cu12"
    install = "pip install 'stmdeploy[cpu,tensorrt-rtx]'"
