"""Reference form against lowered form on the CPU, interleaved in one process.

Run: python -m benchmarks.lowering [SCALE ...]. ONNX Runtime runs the form that the ONNX target
takes, OpenVINO the one that its target takes. Each pair of inferences follows directly on the
other; no session spins while it waits, so that neither takes the processor from the other.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stmdeploy.hardware.machine import available_threads
from stmdeploy.plugins.progress import Silent
from stmdeploy.spec.export import LOWERINGS, ExportSpec
from stmdeploy.spec.model import ModelSpec
from tests.artifacts import export_model

STMS = ("halo", "dcn_v3", "swin", "pvt", "pvt_v2", "convnext")
BATCHES = (1, 8)
SECONDS, FEWEST_PAIRS = 6.0, 10

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
    """OpenVINO in float32, arranged for latency."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    model.reshape(images.shape)
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


def compare(reference: Infer, lowered: Infer) -> tuple[float, float, float]:
    """Median ratio of pairs, and both medians in ms."""
    for warm in (reference, lowered) * 3:
        warm()
    pairs: list[tuple[float, float]] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or len(pairs) < FEWEST_PAIRS:
        pairs.append((time_ms(reference), time_ms(lowered)))
    ratio = statistics.median(a / b for a, b in pairs)
    return ratio, *(statistics.median(column) for column in zip(*pairs, strict=True))


def exported(model: ModelSpec, folder: Path) -> dict[str, Path]:
    """The ONNX file of every form."""
    return {
        form: export_model(ExportSpec(model, "onnx", folder / form, lowering=form), Silent()).path
        for form in LOWERINGS
    }


def main() -> None:
    """Prints one line per runtime, mixer, scale and batch."""
    print(
        f"{'runtime':12}{'model':26}{'batch':>6}{'ratio':>8}{'reference ms':>14}{'lowered ms':>12}"
    )
    for scale in sys.argv[1:] or ["micro"]:
        for stm in STMS:
            model = ModelSpec(f"unified_{stm}_{scale}")
            with tempfile.TemporaryDirectory() as folder:
                paths = exported(model, Path(folder))
                for runtime, (form, inference) in RUNTIMES.items():
                    for batch in BATCHES:
                        images = np.random.default_rng(0).standard_normal(
                            (batch, 3, 224, 224), dtype=np.float32
                        )
                        ratio, before, after = compare(
                            inference(paths["reference"], images), inference(paths[form], images)
                        )
                        print(
                            f"{runtime:12}{model.name:26}{batch:6}{ratio:8.2f}"
                            f"{before:14.1f}{after:12.1f}",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
