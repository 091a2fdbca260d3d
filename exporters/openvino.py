"""OpenVINO: from the ONNX graph to its own representation, run on Intel and AMD CPUs."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.artifact import Calibration, Draft
from stmdeploy.contracts import ModuleFactory, Travels, Work
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.spec import INPUT_NAME, RunSpec

from .onnx_graph import write_onnx
from .operator_times import Inferences, name_by_part, of_openvino
from .ort_session import first_non_finite

if TYPE_CHECKING:
    from stmdeploy.contracts import Array

#: What the CPU is asked to compute in, and the capability it needs for that; f32 without it.
#: Left alone, OpenVINO picks bf16 by itself where the CPU has it.
_INFERENCE_PRECISION = {"fp16": ("f16", "FP16"), "bf16": ("bf16", "BF16")}


class OpenVinoExporter:
    """Exporter of target ``openvino``; its artifacts run on runtime ``openvino``."""

    target = "openvino"
    suffix = ".xml"
    runtimes = ("openvino",)
    tolerances = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2, "int8": None}  # noqa: RUF012
    #: OpenVINO reads no DeformConv of ONNX.
    lowerings = ("tokens-plain", "tokens", "reference")
    holds_code = True
    travels: Travels = "artifact"

    def unavailable(self, *, source_only: bool = False) -> str:
        """Why this target cannot be used here; empty if it can."""
        missing = [name for name in ("openvino", "onnxruntime") if not find_spec(name)]
        if not missing:
            return ""
        return f"{' and '.join(missing)} not installed: pip install 'stmdeploy[cpu,openvino]'"

    def export(self, work: Work) -> Draft:
        """Writes the model as XML and weights, batch dynamic.

        fp16 and bf16: weights in float16 or float32; the CPU is asked to compute in the
        precision (`OpenVinoRunner`). int8: quantised by NNCF.

        Raises:
            StmdeployError: OpenVINO has no rule for an operator, or NNCF is missing.
        """
        _keep_to_ourselves()
        import openvino as ov

        precision = work.spec.precision
        source = write_onnx(work, work.folder / (work.spec.stem + ".onnx"))
        try:
            model = ov.convert_model(source.path)
        except Exception as error:  # OpenVINO's frontend errors share no type
            raise _refused(error, work) from error
        calibration = None
        if precision == "int8":
            model, calibration = _quantized(model, work)
        path = work.folder / (work.spec.stem + self.suffix)
        name_by_part(model, source.path)
        ov.save_model(model, path, compress_to_fp16=precision == "fp16")
        return Draft(
            files=(path.name, path.with_suffix(".bin").name),
            inputs=source.inputs,
            outputs=source.outputs,
            opset=source.opset,
            operators=dict(Counter(node.get_type_name() for node in model.get_ops()).most_common()),
            versions={**source.versions, "openvino": version("openvino")},
            calibration=calibration,
            graph=source.path.name,
            graph_is_exact=precision == "fp32",
        )

    def import_engine(self) -> None:
        """Imports OpenVINO."""
        _keep_to_ourselves()
        import openvino  # noqa: F401

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> OpenVinoRunner:
        """The compiled model; `build` is not used."""
        return OpenVinoRunner(path, run)

    def check(self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory) -> OpenVinoRunner:
        """The artifact itself."""
        return self.load(path, run, build)

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, images: Array, repeats: int
    ) -> Inferences:
        """By OpenVINO's counters; `build` is not used."""
        runner = OpenVinoRunner(path, run, {"PERF_COUNT": True})
        runner.prepare(images)
        return of_openvino(runner.request, repeats)

    def product(self, run: RunSpec, size: int) -> Callable[[], object] | None:
        """A MatMul compiled on its own, in the precisions that the CPU can be asked for."""
        import numpy as np

        _keep_to_ourselves()
        import openvino as ov
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
        """The node of the ONNX graph, in float32; empty if the graph itself is finite."""
        return first_non_finite(path.with_name(draft.graph), images)


def _keep_to_ourselves() -> None:
    """OpenVINO and NNCF report what they convert to Google Analytics, unless the package that does
    it is missing: to them it is."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def _refused(error: Exception, work: Work) -> StmdeployError:
    """One line of OpenVINO's report, which names the operators it has no rule for."""
    lines = [line.strip("- ") for line in str(error).splitlines() if line.startswith("--")]
    reason = "; ".join(lines) or " ".join(str(error).split())[:200]
    return StmdeployError(
        f"OpenVINO cannot read {work.spec.model.name}: {reason}",
        "leave --lowering out, or take another target",
    )


def _quantized(model: Any, work: Work) -> tuple[Any, Calibration]:
    """int8 by NNCF, symmetric weights, scales from the calibration images."""
    if not find_spec("nncf"):
        raise StmdeployError("nncf is not installed", "pip install 'stmdeploy[openvino]'")
    import logging

    _keep_to_ourselves()
    import nncf

    nncf.set_log_level(logging.ERROR)
    assert work.images is not None
    try:
        quantized = nncf.quantize(
            model,
            nncf.Dataset(work.images, lambda image: {INPUT_NAME: image[None]}),
            subset_size=len(work.images),
            model_type=nncf.ModelType.TRANSFORMER,
        )
    except Exception as error:  # NNCF and OpenVINO share no type of error
        raise StmdeployError(
            f"NNCF cannot quantise {work.spec.model.name}: {' '.join(str(error).split())[:200]}",
            "take another precision",
        ) from error
    method = f"nncf {version('nncf')}, transformer"
    return quantized, Calibration(source=work.images_source, images=len(work.images), method=method)


def _compiled(core: Any, model: Any, run: RunSpec, settings: dict[str, Any]) -> Any:
    """A model compiled for the CPU as a run asks."""
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


class OpenVinoRunner:
    """One infer request over a compiled model; input and output stay in its tensors."""

    def __init__(self, path: Path, run: RunSpec, settings: dict[str, Any] | None = None) -> None:
        _keep_to_ourselves()
        import openvino as ov

        if run.device != "cpu":
            raise StmdeployError(
                "openvino runs on the CPU here", "leave --gpu out", ExitCode.WORKER_FAILED
            )
        self._ov, self._run = ov, run
        core = ov.Core()
        model = core.read_model(path)
        model.reshape(
            [run.batch, *[dim.get_length() for dim in list(model.input(0).partial_shape)[1:]]]
        )
        self._model = _compiled(core, model, run, settings or {})
        self.request = self._model.create_infer_request()

    def prepare(self, images: Array) -> None:
        """Copies the input into a tensor, which OpenVINO reads in place."""
        self._input = self._ov.Tensor(images)
        self.request.set_input_tensor(self._input)

    def feed(self, images: Array) -> None:
        """Copies an input over the one before."""
        self._input.data[:] = images

    def another(self) -> OpenVinoRunner:
        """The same compiled model, with an infer request of its own."""
        twin = copy.copy(self)
        twin.request = self._model.create_infer_request()
        return twin

    def run(self) -> None:
        """One inference."""
        self.request.infer()

    def on_stream(self) -> None:
        """None: it runs on the processor."""

    def output(self) -> Array:
        """The logits of the latest run."""
        logits: Array = self.request.get_output_tensor().data
        return logits.copy()

    def facts(self) -> dict[str, str]:
        """Version, device, and the settings that the compiled model reports."""
        settings = {
            key: str(self._model.get_property(key))
            for key in ("PERFORMANCE_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS",
                        "INFERENCE_PRECISION_HINT")
        }  # fmt: skip
        computed_in = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {
            "runtime": "openvino",
            "version": version("openvino"),
            "provider": f"CPU, {computed_in}",
            **{f"provider.{key}": value for key, value in sorted(settings.items())},
        }
