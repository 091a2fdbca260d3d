"""How near a graph of matrix products comes to its bound, on every runtime of this machine.

The bound has no slack where nothing but products is done: what is missing to 1 is what the
runtime, and the moment, keep from the peak.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from stmdeploy.hardware.machine import available_threads
from stmdeploy.plugins.progress import Silent
from stmdeploy.plugins.registry import exporters
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.profile import Place, profile

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


def measured(folder: Path, runtimes: list[str], batches: list[int], budget_s: float) -> list[Row]:
    """The rows of a sweep over the model, with their bounds."""
    runs = tuple(
        RunSpec(runtime, batch, available_threads()) for runtime in runtimes for batch in batches
    )
    spec = SweepSpec((_MODEL,), runs, sampling=SamplingSpec(budget_s=budget_s))
    return list(profile(spec, Place(folder), Silent(), lambda _: None).rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget-s", type=float, default=10.0)
    options = parser.parse_args()
    runtimes = [
        name for name in ("onnxruntime", "openvino")
        if any(name in e.target.runtimes and not e.unavailable() for e in exporters().values())
    ]  # fmt: skip
    with TemporaryDirectory() as folder:
        for row in measured(Path(folder), runtimes, [1, 8, 32], options.budget_s):
            assert row.bound is not None
            assert row.measurement is not None
            fastest = row.bound.bound_ms / row.measurement.latency_ms_min
            print(
                f"{row.runtime}, batch {row.batch}: efficiency {row.efficiency:.2f}, of the "
                f"fastest inference {fastest:.2f} (peak {1e3 * row.bound.rate.tflops:.0f} "
                f"GFLOP/s by {row.bound.rate.by})"
            )


if __name__ == "__main__":
    main()
