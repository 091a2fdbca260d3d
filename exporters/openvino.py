"""OpenVINO: the ONNX graph converted to its own format, run on Intel and AMD CPUs."""

from __future__ import annotations

import copy
import re
import sys
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files.reading import one_line
from stmdeploy.plugins.exporter import Exporter, Target, Work
from stmdeploy.plugins.runner import Array, ModuleFactory, Runner
from stmdeploy.schema.manifest import Calibration, Draft
from stmdeploy.spec.model import INPUT_NAME
from stmdeploy.spec.run import RunSpec

from .onnx import not_installed
from .onnx_graph import write_onnx
from .operator_times import PART_MARK, Inferences, name_by_part, nodes_of_parts, of_openvino
from .ort_session import first_non_finite

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
        precision. int8 is quantised by NNCF.

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
        )

    def import_runtime(self) -> None:
        _openvino()

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> OpenVinoRunner:
        """Compiles the model for a run; `build` is not used."""
        return OpenVinoRunner(path, run)

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, images: Array, repeats: int
    ) -> Inferences:
        """Measures with OpenVINO's counters; `build` is not used."""
        runner = OpenVinoRunner(path, run, {"PERF_COUNT": True})
        runner.prepare(images)
        return of_openvino(runner.request, repeats)

    def product(self, run: RunSpec, size: int) -> Callable[[], object] | None:
        """Compiles a MatMul of its own, in the precisions that the CPU can be asked for."""
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


def _refused(error: Exception, work: Work) -> StmdeployError:
    """The error for OpenVINO's report, which lists the operators it has no rule for."""
    lines = [line.strip("- ") for line in str(error).splitlines() if line.startswith("--")]
    reason = "; ".join(lines) or one_line(str(error))[:200]
    return StmdeployError(
        f"OpenVINO cannot read {work.spec.model.name}: {reason}",
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
    """One infer request over a compiled model; input and output stay in its tensors."""

    def __init__(self, path: Path, run: RunSpec, settings: dict[str, Any] | None = None) -> None:
        if run.device != "cpu":
            raise StmdeployError(
                "openvino runs only on the CPU", "leave --gpu out", ExitCode.WORKER_FAILED
            )
        self._ov = _openvino()
        core = self._ov.Core()
        model = core.read_model(path)
        model.reshape([run.batch, *list(model.input(0).partial_shape)[1:]])
        self._model = _compiled(core, model, run, settings or {})
        self.request = self._model.create_infer_request()

    def prepare(self, images: Array) -> None:
        """Copies the input into a tensor, which OpenVINO reads in place."""
        self._input = self._ov.Tensor(images)
        self.request.set_input_tensor(self._input)

    def feed(self, images: Array) -> None:
        self._input.data[:] = images

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
