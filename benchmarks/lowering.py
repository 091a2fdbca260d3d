"""Reference form against lowered form in ONNX Runtime on the CPU, interleaved in one process.

Run: python -m benchmarks.lowering [SCALE ...]. Each pair of inferences follows directly on the
other; spinning is off in both sessions, so that neither takes the processor from the other.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from stmdeploy.contracts import Progress
from stmdeploy.pipeline import export_model
from stmdeploy.spec import LOWERINGS, ExportSpec, ModelSpec, available_threads

STMS = ("halo", "dcn_v3", "swin", "pvt", "pvt_v2", "convnext")
BATCHES = (1, 8)
SECONDS, FEWEST_PAIRS = 6.0, 10


class Silent:
    """A `Progress` that says nothing."""

    def expect(self, steps: int) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


def session(path: Path) -> ort.InferenceSession:
    """A session with the default optimisations and without spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def time_ms(of: ort.InferenceSession, images: np.ndarray) -> float:
    """One inference."""
    start = time.perf_counter()
    of.run(None, {"image": images})
    return 1000 * (time.perf_counter() - start)


def compare(reference: Path, lowered: Path, batch: int) -> tuple[float, float, float]:
    """Median ratio of pairs, and both medians in ms."""
    sessions = session(reference), session(lowered)
    images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)
    for warm in sessions * 3:
        time_ms(warm, images)
    pairs: list[tuple[float, float]] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or len(pairs) < FEWEST_PAIRS:
        pairs.append((time_ms(sessions[0], images), time_ms(sessions[1], images)))
    ratio = statistics.median(a / b for a, b in pairs)
    return ratio, *(statistics.median(column) for column in zip(*pairs, strict=True))


def main() -> None:
    """Prints one line per mixer, scale and batch."""
    progress: Progress = Silent()
    print(f"{'model':28}{'batch':>6}{'ratio':>8}{'reference ms':>14}{'tokens ms':>11}")
    for scale in sys.argv[1:] or ["micro"]:
        for stm in STMS:
            model = ModelSpec(f"unified_{stm}_{scale}")
            with tempfile.TemporaryDirectory() as folder:
                paths = [
                    export_model(
                        ExportSpec(model, "onnx", Path(folder) / form, lowering=form), progress
                    ).path
                    for form in LOWERINGS
                ]
                for batch in BATCHES:
                    ratio, *medians = compare(paths[0], paths[1], batch)
                    line = (
                        f"{model.name:28}{batch:6}{ratio:8.2f}{medians[0]:14.1f}{medians[1]:11.1f}"
                    )
                    print(line, flush=True)


if __name__ == "__main__":
    main()
