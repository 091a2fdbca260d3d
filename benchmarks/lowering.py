"""Forms of a backbone on the CPU, interleaved in one process: reference against lowered, and for
detection also a file of dynamic size against one of fixed size.

Run: python -m benchmarks.lowering [--task detection] [SCALE ...]. ONNX Runtime runs the form that
the ONNX target takes, OpenVINO the one that its target takes. Each pair of inferences follows
directly on the other; no session spins while it waits, so that neither takes the processor from the
other. Peak memory is of a process of its own for each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stmdeploy.hardware.machine import available_threads
from stmdeploy.measure.session import peak_memory_mib
from stmdeploy.plugins.progress import Silent
from stmdeploy.spec.export import LOWERINGS, ExportSpec
from stmdeploy.spec.model import CLASSIFICATION, DEFAULT_SIZES, DETECTION, TASKS, ModelSpec
from tests.sharing import export_model

STMS = {
    CLASSIFICATION: ("halo", "dcn_v3", "swin", "pvt", "pvt_v2", "convnext"),
    DETECTION: ("halo", "dcn_v3", "swin", "pvt", "convnext"),
}
BATCHES = {CLASSIFICATION: (1, 8), DETECTION: (1,)}
SECONDS, FEWEST_PAIRS = 6.0, 10
DYNAMIC, REFERENCE = "dynamic", LOWERINGS[0]

Infer = Callable[[], object]


def onnxruntime_inference(path: Path, images: np.ndarray) -> Infer:
    """ONNX Runtime with its default optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = available_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": images})


def openvino_inference(path: Path, images: np.ndarray) -> Infer:
    """OpenVINO in float32, arranged for latency; a free size stays free."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    model.reshape([len(images), *list(model.input(0).partial_shape)[1:]])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": available_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(images))
    infer: Infer = request.infer
    return infer


#: The runtimes, each with its lowered form.
RUNTIMES = {
    "onnxruntime": ("tokens", onnxruntime_inference),
    "openvino": ("tokens-plain", openvino_inference),
}


def time_ms(infer: Infer) -> float:
    """One inference."""
    start = time.perf_counter()
    infer()
    return 1000 * (time.perf_counter() - start)


def compare(reference: Infer, other: Infer) -> tuple[float, float, float]:
    """Median ratio of pairs, and both medians in ms."""
    for warm in (reference, other) * 3:
        warm()
    pairs: list[tuple[float, float]] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or len(pairs) < FEWEST_PAIRS:
        pairs.append((time_ms(reference), time_ms(other)))
    ratio = statistics.median(a / b for a, b in pairs)
    return ratio, *(statistics.median(column) for column in zip(*pairs, strict=True))


def peak_mib(runtime: str, path: Path, shape: tuple[int, ...]) -> float:
    """Peak memory of a fresh process that loads a file and runs it three times."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_mib, (runtime, path, shape))


def _peak_mib(runtime: str, path: Path, shape: tuple[int, ...]) -> float:
    infer = RUNTIMES[runtime][1](path, np.zeros(shape, np.float32))
    for _ in range(3):
        infer()
    return peak_memory_mib()


def exported(model: ModelSpec, folder: Path) -> dict[str, Path]:
    """The ONNX file of every form, and for detection that of a dynamic size."""
    forms = {form: ExportSpec(model, "onnx", folder / form, lowering=form) for form in LOWERINGS}
    if model.task == DETECTION:
        forms[DYNAMIC] = ExportSpec(model, "onnx", folder / DYNAMIC, dynamic_size=True)
    return {name: export_model(spec, Silent()).path for name, spec in forms.items()}


def main() -> None:
    """Prints one line per runtime, mixer, scale, batch and form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scale", nargs="*", default=["micro"])
    parser.add_argument("--task", choices=TASKS, default=CLASSIFICATION)
    parser.add_argument("--stm", action="append")
    options = parser.parse_args()
    task, size = options.task, DEFAULT_SIZES[options.task]
    print("Ratio: time of the reference form over that of the form named; MiB: peak memory.")
    print(f"{'runtime':12}{'model':26}{'form':14}{'batch':>6}{'ratio':>8}{'reference ms':>14}"
          f"{'this ms':>10}{'reference MiB':>15}{'this MiB':>10}")  # fmt: skip
    for scale in options.scale:
        for stm in options.stm or STMS[task]:
            model = ModelSpec(f"unified_{stm}_{scale}", size, task=task)
            with tempfile.TemporaryDirectory() as folder:
                paths = exported(model, Path(folder))
                for runtime, (form, inference) in RUNTIMES.items():
                    for batch in BATCHES[task]:
                        shape = (batch, 3, *size)
                        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
                        before = peak_mib(runtime, paths[REFERENCE], shape)
                        for name in (form, DYNAMIC):
                            if name not in paths:
                                continue
                            ratio, slow, fast = compare(
                                inference(paths[REFERENCE], images), inference(paths[name], images)
                            )
                            after = peak_mib(runtime, paths[name], shape)
                            print(f"{runtime:12}{model.name:26}{name:14}{batch:6}{ratio:8.2f}"
                                  f"{slow:14.1f}{fast:10.1f}{before:15.0f}{after:10.0f}",
                                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
