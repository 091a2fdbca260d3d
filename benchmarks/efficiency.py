"""How near a graph of matrix products comes to its bound, on every runtime of this machine.

The bound has no slack where nothing but products is done: what is missing to 1 is what the
runtime, and the moment, keep from the peak.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from benchmarks.evidence import saving, table
from stmdeploy.hardware.machine import available_threads
from stmdeploy.plugins.progress import Silent
from stmdeploy.plugins.registry import exporters
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.profile import Place, profile

BATCHES = (1, 8, 32)
#: What the table is about.
CODE = ("benchmarks/efficiency.py", "stmdeploy/hardware/roofline.py", "stmdeploy/measure/peaks.py",
        "stmdeploy/artifacts/graph.py")  # fmt: skip
_WIDTH, _LAYERS, _CLASSES = 1024, 12, 10
_MODEL = ModelSpec("benchmarks.efficiency:products", num_classes=_CLASSES)


class Products(nn.Module):
    """An image of 224 px as 147 tokens, through products alone; logits are those of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(_LAYERS))
        )
        self.head = nn.Linear(_WIDTH, _CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layers(x.reshape(x.shape[0], -1, _WIDTH))
        logits: Tensor = self.head(tokens[:, 0])
        return logits


def products() -> nn.Module:
    """The model, with random weights that keep the size of what goes through them."""
    module = Products().eval()
    for layer in module.layers:
        assert isinstance(layer, nn.Linear)
        nn.init.orthogonal_(layer.weight)
    return module


def measured(
    folder: Path, runtimes: Sequence[str], batches: Sequence[int], budget_s: float
) -> list[Row]:
    """The rows of a sweep over the model, with their bounds."""
    runs = tuple(
        RunSpec(runtime, batch, available_threads()) for runtime in runtimes for batch in batches
    )
    spec = SweepSpec((_MODEL,), runs, sampling=SamplingSpec(budget_s=budget_s))
    return list(profile(spec, Place(folder), Silent(), lambda _: None).rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget-s", type=float, default=10.0)
    saving(parser)
    options = parser.parse_args()
    runtimes = [
        name for name in ("onnxruntime", "openvino")
        if any(name in e.target.runtimes and not e.unavailable() for e in exporters().values())
    ]  # fmt: skip
    with TemporaryDirectory() as folder:
        rows = measured(Path(folder), runtimes, BATCHES, options.budget_s)
    columns = ("runtime", *(f"batch {batch}" for batch in BATCHES), "peak, GFLOP/s")
    remark = "efficiency, and in brackets that of the fastest inference; the peak is measured"
    with table("efficiency", "python -m benchmarks.efficiency", CODE, columns, remark,
               save=options.save) as add:  # fmt: skip
        for runtime in runtimes:
            mine = [row for row in rows if row.runtime == runtime]
            first = mine[0].bound
            assert first is not None
            peak = f"{1e3 * first.rate.tflops:.0f} ({first.rate.by})"
            add(runtime, *map(_shown, mine), peak)


def _shown(row: Row) -> str:
    assert row.bound is not None and row.measurement is not None
    fastest = row.bound.bound_ms / row.measurement.latency_ms_min
    return f"{row.efficiency:.2f} ({fastest:.2f})"


if __name__ == "__main__":
    main()
