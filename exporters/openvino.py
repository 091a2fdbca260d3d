"""OpenVINO: the ONNX graph converted to its own format, run on Intel and AMD CPUs."""

from __future__ import annotations

import copy
import re
import sys
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files.reading import one_line
from stmdeploy.files.writing import sha256_of
from stmdeploy.plugins.exporter import Adoption, Declared, Exporter, Target, Work
from stmdeploy.plugins.runner import Array, Inputs, ModuleFactory, Runner
from stmdeploy.schema.manifest import Calibration, Draft, TensorInfo
from stmdeploy.spec.model import BATCH, INPUT_NAME
from stmdeploy.spec.run import RunSpec

from .onnx import not_installed
from .onnx_graph import write_onnx
from .operator_times import PART_MARK, Inferences, name_by_part, nodes_of_parts, of_openvino
from .ort_session import OnnxRuntimeRunner, first_non_finite
from .outside import OPEN, OPEN_RANK, adopt_onnx, declared_onnx
from .precision import converted, emulated

#: The type the CPU is asked to compute in, and the capability that takes; f32 without it.
#: Left alone, OpenVINO picks bf16 by itself where the CPU has it.
_INFERENCE_PRECISION = {"fp16": ("f16", "FP16"), "bf16": ("bf16", "BF16")}
#: Settings that a row of results records, as the compiled model reports them.
_REPORTED = ("INFERENCE_NUM_THREADS", "INFERENCE_PRECISION_HINT", "NUM_STREAMS", "PERFORMANCE_HINT")


class OpenVinoExporter(Exporter):
    """Exporter of target ``openvino``; its artifacts run on runtime ``openvino``."""

    target = Target(
        name="openvino",
        suffix=".xml",
        runtimes=("openvino",),
        tolerances={"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2, "int8": None},
        dynamic_size=True,
        mixes=("int8",),
        packages=("openvino",),
        devices=("cpu",),
    )
    lowerings = ("tokens-plain", "tokens", "reference")  # it cannot read ONNX's DeformConv

    def unavailable(self, *, source_only: bool = False) -> str:
        return not_installed(("openvino", "onnxruntime"), "pip install 'stmdeploy[cpu,openvino]'")

    def export(self, work: Work) -> Draft:
        """Writes the model, for any batch size, as XML and weights.

        fp16 stores weights in float16, bf16 in float32; the runner asks the CPU to compute in the
        precision. int8 is quantised by NNCF. Where the CPU has no bf16, the model is written but
        not run, and the ONNX graph is rounded to bf16 to be verified in its place.

        Raises:
            StmdeployError: OpenVINO has no rule for an operator, or NNCF is missing or fails.
        """
        ov, precision = _openvino(), work.spec.precision
        source = write_onnx(work, ".onnx")
        graph = work.folder / source.graph
        try:
            model = ov.convert_model(graph)
        except Exception as error:  # OpenVINO's frontend errors share no type
            raise _refused(error, work) from error
        calibration = None
        if work.spec.keep:
            nodes_of_parts(graph, work.spec.keep)  # raises for a part that there is not
            name_by_part(model, graph)
        if precision == "int8":
            model, calibration = _quantized(model, work)
        path = work.folder / (work.spec.stem + self.target.suffix)
        name_by_part(model, graph)
        ov.save_model(model, path, compress_to_fp16=precision == "fp16")
        not_run = _why_no_bf16(ov.Core()) if precision == "bf16" else ""
        if not_run:
            converted(source, work)
        return Draft(
            files=(path.name, path.with_suffix(".bin").name),
            inputs=source.inputs,
            outputs=source.outputs,
            opset=source.opset,
            operators=dict(Counter(node.get_type_name() for node in model.get_ops()).most_common()),
            versions={**source.versions, "openvino": version("openvino")},
            calibration=calibration,
            graph=source.graph,
            graph_is_exact=precision == "fp32",
            not_run=not_run,
        )

    adopts = (".xml", ".onnx")

    def precisions(self, of_file: str) -> tuple[str, ...]:
        """That of the file; float32 is computed in 16 bits, too, if that is asked for."""
        return ("fp32", *_INFERENCE_PRECISION) if of_file == "fp32" else (of_file,)

    def declared(self, path: Path) -> Declared:
        """Reads the model; its constants are what lies in the file beside it."""
        if path.suffix == ".onnx":
            return declared_onnx(path)
        model, weights = _read(path), path.with_suffix(".bin")
        kinds = {node.get_type_name() for node in model.get_ops()}
        constants = [n for n in model.get_ops() if n.get_type_name() == "Constant"]
        sizes = [n.get_output_size() and prod(n.get_output_shape(0)) for n in constants]
        return Declared(
            inputs=tuple(map(_tensor_info, model.inputs)),
            outputs=tuple(map(_tensor_info, model.outputs)),
            precision="int8" if "FakeQuantize" in kinds else "fp32",
            parameters=sum(
                size
                for node, size in zip(constants, sizes, strict=True)
                if node.get_element_type().get_type_name() not in ("i32", "i64", "boolean")
            ),
            sha256=sha256_of(weights if weights.is_file() else path),
        )

    def adopt(self, work: Adoption) -> Draft:
        """Writes the model, the shapes of its inputs known but for the batch."""
        ov, source = _openvino(), work.path
        graph = ""
        if source.suffix == ".onnx":
            copied = adopt_onnx(work, ".source.onnx")
            graph = copied.graph
            try:
                model = ov.convert_model(work.folder / graph)
            except Exception as error:  # OpenVINO's frontend errors share no type
                raise StmdeployError(
                    f"OpenVINO cannot read {source.name}: {_reason(error)}",
                    "take another --runtime",
                ) from error
        else:
            model = _read(source)
        model.reshape(
            {
                place: [-1 if side == BATCH else int(side) for side in one.shape]
                for place, one in enumerate(work.inputs)
            }
        )
        path = work.folder / (source.stem + self.target.suffix)
        ov.save_model(model, path, compress_to_fp16=False)
        return Draft(
            files=(path.name, path.with_suffix(".bin").name),
            inputs=work.inputs,
            outputs=work.outputs,
            operators=dict(Counter(node.get_type_name() for node in model.get_ops()).most_common()),
            versions={"openvino": version("openvino")},
            graph=graph,
            not_run=_why_no_bf16(ov.Core()) if work.precision == "bf16" else "",
        )

    def import_runtime(self) -> None:
        _openvino()

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> OpenVinoRunner:
        """Compiles the model for a run; `build` is not used."""
        return OpenVinoRunner(path, run)

    def load_draft(self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory) -> Runner:
        """Loads the artifact; where the CPU cannot compute in its precision, the ONNX graph, by
        ONNX Runtime, rounding as OpenVINO would."""
        if draft.not_run:
            return OnnxRuntimeRunner(emulated(path.with_name(draft.graph)), run)
        return self.load(path, run, build)

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, inputs: Inputs, repeats: int
    ) -> Inferences:
        """Measures with OpenVINO's counters; `build` is not used."""
        runner = OpenVinoRunner(path, run, {"PERF_COUNT": True})
        runner.prepare(*inputs)
        return of_openvino(runner.request, repeats)

    def product(self, run: RunSpec, size: int) -> Callable[[], object] | None:
        """Compiles a MatMul of its own, in the precisions that the CPU can be asked for.

        One that it lacks OpenVINO computes in float32, which is then the most that there is.
        """
        import numpy as np

        ov = _openvino()
        import openvino.opset13 as operators

        if run.precision not in ("fp32", *_INFERENCE_PRECISION):
            return None
        weights = np.ones((size, size), np.float32)
        left = operators.parameter([size, size], np.float32)
        model = ov.Model([operators.matmul(left, weights, False, False)], [left])
        request = _compiled(ov.Core(), model, run, {}).create_infer_request()
        request.set_input_tensor(ov.Tensor(weights))
        return lambda: request.infer()

    def explain(self, path: Path, draft: Draft, images: Array) -> str:
        """Names the first node of the float32 ONNX graph whose output is not finite, if any."""
        return first_non_finite(path.with_name(draft.graph), images)


def _openvino() -> Any:
    """Imports the library, its telemetry off: it and NNCF report what they convert to Google
    Analytics unless the package for that is missing, so it is made to look so."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _read(path: Path) -> Any:
    """A model in OpenVINO's own format.

    Raises:
        StmdeployError: it is damaged.
    """
    try:
        return _openvino().Core().read_model(path)
    except Exception as error:
        raise StmdeployError(
            f"{path} is no model of OpenVINO: {_reason(error)}",
            "give the .xml file; its .bin lies beside it",
        ) from error


def _tensor_info(port: Any) -> TensorInfo:
    """An input or output; a dimension that is open has no name."""
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        sides: tuple[int | str, ...] = (OPEN_RANK,)
    else:
        sides = tuple(OPEN if dim.is_dynamic else dim.get_length() for dim in shape)
    name = next(iter(sorted(port.get_names())), port.get_node().get_friendly_name())
    return TensorInfo(name=name, dtype=str(port.get_element_type().to_dtype()), shape=sides)


def _reason(error: Exception) -> str:
    """What OpenVINO says, which may list the operators that it has no rule for."""
    lines = [line.strip("- ") for line in str(error).splitlines() if line.startswith("--")]
    return "; ".join(lines) or one_line(str(error))[:200]


def _refused(error: Exception, work: Work) -> StmdeployError:
    """The error for a model that OpenVINO cannot read."""
    return StmdeployError(
        f"OpenVINO cannot read {work.spec.model.name}: {_reason(error)}",
        "leave --lowering out, or take another --target",
    )


def _quantized(model: Any, work: Work) -> tuple[Any, Calibration]:
    """Quantises a model to int8 with NNCF: symmetric weights, scales from `work.images`.

    Args:
        model: its nodes are named by their parts, if any are to be kept.
    """
    if not find_spec("nncf"):
        raise StmdeployError("nncf is not installed", "pip install 'stmdeploy[openvino]'")
    import logging

    import nncf

    nncf.set_log_level(logging.ERROR)
    assert work.images is not None
    try:
        quantized = nncf.quantize(
            model,
            nncf.Dataset(work.images, lambda image: {INPUT_NAME: image[None]}),
            subset_size=len(work.images),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(
                patterns=[f"{re.escape(part)}{re.escape(PART_MARK)}.*" for part in work.spec.keep],
                validate=False,
            ),
        )
    except Exception as error:  # NNCF and OpenVINO share no type of error
        raise StmdeployError(
            f"NNCF cannot quantise {work.spec.model.name}: {one_line(str(error))[:200]}",
            "take another --precision",
        ) from error
    method = f"nncf {version('nncf')}, transformer"
    return quantized, Calibration(source=work.images_source, images=len(work.images), method=method)


def _why_no_bf16(core: Any) -> str:
    """Why this CPU does not compute in bf16; empty if it does."""
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return ""
    return f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} has no bf16: OpenVINO computes float32"


def _compiled(core: Any, model: Any, run: RunSpec, settings: dict[str, Any]) -> Any:
    """Compiles a model for the CPU with the settings of a run."""
    hint, needed = _INFERENCE_PRECISION.get(run.precision, ("f32", "FP32"))
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": run.settings.hint.upper(),
            "INFERENCE_NUM_THREADS": run.threads,
            "INFERENCE_PRECISION_HINT": hint if needed in able else "f32",
            **settings,
        },
    )


class OpenVinoRunner(Runner):
    """One infer request over a compiled model; input and output stay in its tensors.

    Raises:
        StmdeployError: (exit code 5) for another device, or bf16 on a CPU that has none: what it
            would measure were float32.
    """

    def __init__(self, path: Path, run: RunSpec, settings: dict[str, Any] | None = None) -> None:
        if run.device != "cpu":
            raise StmdeployError(
                "openvino runs only on the CPU", "leave --gpu out", ExitCode.WORKER_FAILED
            )
        self._ov = _openvino()
        core = self._ov.Core()
        if run.precision == "bf16" and (why := _why_no_bf16(core)):
            raise StmdeployError(why, "take --precision fp32", ExitCode.WORKER_FAILED)
        model = core.read_model(path)
        model.reshape(
            {
                place: [run.batch if dim.is_dynamic else dim.get_length(), *rest]
                for place, (dim, *rest) in enumerate(one.partial_shape for one in model.inputs)
            }
        )
        self._model = _compiled(core, model, run, settings or {})
        self.request = self._model.create_infer_request()

    def prepare(self, *inputs: Array) -> None:
        """Copies the inputs into tensors, which OpenVINO reads in place."""
        self._inputs = [self._ov.Tensor(one) for one in inputs]
        for place, tensor in enumerate(self._inputs):
            self.request.set_input_tensor(place, tensor)

    def feed(self, *inputs: Array) -> None:
        for tensor, given in zip(self._inputs, inputs, strict=True):
            tensor.data[:] = given

    def another(self) -> OpenVinoRunner:
        """The same compiled model, with an infer request of its own."""
        twin = copy.copy(self)
        twin.request = self._model.create_infer_request()
        return twin

    def run(self) -> None:
        self.request.infer()

    def outputs(self) -> tuple[Array, ...]:
        return tuple(tensor.data.copy() for tensor in self.request.output_tensors)

    def facts(self) -> dict[str, str]:
        """Version, device, and the settings that the compiled model reports."""
        settings = {key: self._model.get_property(key) for key in _REPORTED}
        return {
            "runtime": "openvino",
            "version": version("openvino"),
            "provider": f"CPU, {settings['INFERENCE_PRECISION_HINT'].get_type_name()}",
            **{f"provider.{key}": str(value) for key, value in settings.items()},
        }
