"""What masked attention costs in ONNX Runtime on the CPU: halo and swin in the form `tokens`, with
masks as their authors have them and with ours, interleaved in one process.

Run: python -m benchmarks.masks [--save] [SCALE ...]
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.evidence import saving, table
from benchmarks.lowering import compare, onnxruntime_inference
from stmdeploy.backbones.lowering import halo, swin
from stmdeploy.backbones.lowering.tokens import MASKED
from stmdeploy.plugins.progress import Silent
from stmdeploy.spec.export import TOKENS, ExportSpec
from stmdeploy.spec.model import ModelSpec
from tests.sharing import export_model

MIXERS = {"halo": halo, "swin": swin}
BATCHES = (1, 8)
#: Lower than any mask of the authors.
ANY = -1e9
CODE = ("benchmarks/masks.py", "stmdeploy/backbones/lowering")
COLUMNS = ("backbone", "ratio, batch 1 and 8", "ms, batch 1", "outputs differ by")


def main() -> None:
    """A row for every backbone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scale", nargs="*", default=["micro"])
    saving(parser)
    options = parser.parse_args()
    command = f"python -m benchmarks.masks {' '.join(options.scale)}"
    remark = "ONNX Runtime, fp32; medians of interleaved pairs; the difference is the relative L2"
    with (
        table("masks", command, CODE, COLUMNS, remark, save=options.save) as add,
        tempfile.TemporaryDirectory() as name,
    ):
        for scale in options.scale:
            for stm in MIXERS:
                model, folder = ModelSpec(f"unified_{stm}_{scale}"), Path(name) / scale / stm
                ways = (stm, model, folder / "theirs", ANY), (stm, model, folder / "ours", MASKED)
                # In processes of their own: one keeps what it has traced.
                with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                    theirs, ours = (pool.apply(exported, way) for way in ways)
                add(model.name, *compared(theirs, ours))


def exported(stm: str, model: ModelSpec, folder: Path, masked: float) -> Path:
    """The ONNX file, with masks no lower than that."""
    with patch.object(MIXERS[stm], "MASKED", masked):
        return export_model(ExportSpec(model, "onnx", folder, lowering=TOKENS), Silent()).path


def compared(theirs: Path, ours: Path) -> tuple[str, str, str]:
    """Ratios, latencies at batch 1, and by how much the outputs differ."""
    ratios, latencies, apart = [], "", 0.0
    for batch in BATCHES:
        images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)
        old, new = onnxruntime_inference(theirs, images), onnxruntime_inference(ours, images)
        ratio, slow, fast = compare(old, new)
        ratios.append(f"{ratio:.2f}")
        latencies = latencies or f"{slow:.1f} → {fast:.1f}"
        expected, got = np.asarray(old()), np.asarray(new())
        difference = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        apart = max(apart, float(difference))
    return ", ".join(ratios), latencies, f"{apart:.1e}" if apart else "nothing"


if __name__ == "__main__":
    main()
