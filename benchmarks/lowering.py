"""Forms of a backbone on the CPU, interleaved in one process: reference against lowered, and for
detection also a file of dynamic size against one of fixed size.

Run: python -m benchmarks.lowering [--task detection] [--save] [SCALE ...]. ONNX Runtime runs the
form that the ONNX target takes, OpenVINO the one that its target takes. Each pair of inferences
follows directly on the other; no session spins while it waits, so that neither takes the processor
from the other. Peak memory is of a process of its own for each.
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

from benchmarks.evidence import saving, table
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
#: What the tables are about.
CODE = ("benchmarks/lowering.py", "stmdeploy/backbones/lowering", "exporters/onnx.py",
        "exporters/openvino.py")  # fmt: skip
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


#: A ratio, both latencies in ms and both peaks of memory in MiB, by runtime, batch and form.
Found = dict[tuple[str, int, str], tuple[float, float, float, float, float]]


def compared(model: ModelSpec, folder: Path) -> Found:
    """Every form of a model against the reference form."""
    paths, found, size = exported(model, folder), Found(), model.image_size
    for runtime, (form, inference) in RUNTIMES.items():
        for batch in BATCHES[model.task]:
            shape = (batch, 3, *size)
            images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
            before = peak_mib(runtime, paths[REFERENCE], shape)
            for name in (form, DYNAMIC):
                if name in paths:
                    reference, other = (inference(paths[one], images) for one in (REFERENCE, name))
                    after = peak_mib(runtime, paths[name], shape)
                    found[runtime, batch, name] = (*compare(reference, other), before, after)
    return found


def of_sizes_that_are_fixed(found: Found) -> list[str]:
    """Of every runtime the ratios, and both latencies at batch 1."""
    cells = []
    for runtime, (form, _) in RUNTIMES.items():
        every = [found[runtime, batch, form] for batch in BATCHES[CLASSIFICATION]]
        _, slow, fast, *_ = every[0]
        cells += [", ".join(f"{one[0]:.2f}" for one in every), f"{slow:.1f} → {fast:.1f}"]
    return cells


def of_any_size(found: Found) -> list[str]:
    """Of every runtime the lowered form's ratio and memory, and the ratio of a dynamic size."""
    cells = []
    for runtime, (form, _) in RUNTIMES.items():
        ratio, _, _, before, after = found[runtime, 1, form]
        cells += [f"{ratio:.2f}", f"{before:.0f} → {after:.0f}"]
        cells.append(f"{found[runtime, 1, DYNAMIC][0]:.2f}")
    return cells


def main() -> None:
    """A row for every backbone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scale", nargs="*", default=["micro"])
    parser.add_argument("--task", choices=TASKS, default=CLASSIFICATION)
    parser.add_argument("--stm", action="append")
    saving(parser)
    options = parser.parse_args()
    task, size = options.task, DEFAULT_SIZES[options.task]
    fixed = task == CLASSIFICATION
    each = ("ratio", "ms, batch 1") if fixed else ("lowered", "memory, MiB", "dynamic")
    columns = [f"{runtime}: {word}" for runtime in RUNTIMES for word in each]
    command = f"python -m benchmarks.lowering {' '.join(options.scale)}"
    remark = "medians of interleaved pairs" + ("" if fixed else f"; {size[0]}x{size[1]}, batch 1")
    with table(
        "lowering" if fixed else "lowering-detection",
        command if fixed else f"{command} --task detection",
        CODE, ("backbone", *columns), remark, save=options.save,
    ) as add:  # fmt: skip
        for scale in options.scale:
            for stm in options.stm or STMS[task]:
                model = ModelSpec(f"unified_{stm}_{scale}", size, task=task)
                with tempfile.TemporaryDirectory() as folder:
                    found = compared(model, Path(folder))
                add(model.name, *(of_sizes_that_are_fixed if fixed else of_any_size)(found))


if __name__ == "__main__":
    main()
