"""What TensorRT-RTX's builder makes of every form of every mixer: layers, kernels, attentions.

Run: python -m benchmarks.engines [--scale micro] [--precision fp16] [--capability 8.9]
[--batch 1 --batch 32 --batch 1,8,32] [--form reference --form gpu] [--save]. Needs no GPU: engines
are built ahead of time, not run. A batch is one number for an engine of it alone, or MIN,OPT,MAX.
*Layers* are what the builder lists; *kernels* are those that compute (it also lists what streams
wait for each other with); *attentions* are fused ones; *activations* are the memory that all of
them share.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.evidence import saving, table
from stmdeploy.backbones.lowering import lower
from stmdeploy.backbones.source import BuiltModel, build_model
from stmdeploy.exporters.tensorrt import TensorRtRtxExporter
from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.plugins.exporter import Work
from stmdeploy.plugins.progress import Silent
from stmdeploy.schema.manifest import FusedLayer
from stmdeploy.spec.export import EngineSpec, ExportSpec
from stmdeploy.spec.model import ModelSpec

STMS = ("halo", "swin", "pvt", "dcn_v3", "convnext")
FORMS = ("reference", "gpu")
#: The package of the builder, and what the table is about.
BUILDER = "tensorrt-rtx-cu12"
CODE = ("benchmarks/engines.py", "stmdeploy/backbones/lowering", "exporters/tensorrt.py",
        "exporters/tensorrt_build.py")  # fmt: skip
#: Layers by which streams wait for each other.
_SYNCHRONISATION = ("signal", "wait")
#: How the builder names a fused attention.
_ATTENTION = "_mha_"


@dataclass(frozen=True)
class Built:
    """An engine, by its builder's list of layers."""

    layers: tuple[FusedLayer, ...]
    activation_mib: float

    @property
    def kernels(self) -> int:
        """Layers that compute."""
        return len(self._computing)

    @property
    def _computing(self) -> list[FusedLayer]:
        return [layer for layer in self.layers if layer.kind not in _SYNCHRONISATION]

    @property
    def attentions(self) -> int:
        """Fused attentions."""
        return sum(_ATTENTION in layer.name for layer in self.layers)

    @property
    def copies(self) -> int:
        """Layers that only move data."""
        return sum(
            layer.kind == "reformat" or layer.name.startswith("__myl_Move") for layer in self.layers
        )

    @property
    def known_percent(self) -> float:
        """Share of the kernels that the builder's listing attributes to a part of the model."""
        return 100 * sum(layer.part != "other" for layer in self._computing) / self.kernels


def engine_of(
    model: BuiltModel, spec: ModelSpec, form: str, precision: str, engine: EngineSpec
) -> Built:
    """Builds an engine of a model in a form; raises as `TensorRtRtxExporter.export`."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work(
            module=lower(model.module, form, spec.image_size),
            form=form,
            info=model.info,
            outputs=model.outputs(),
            spec=ExportSpec(spec, "tensorrt-rtx", Path(folder), precision, form, engine=engine),
            folder=Path(folder),
            images=None,
            images_source="",
            tell=lambda _: None,
        )
        draft = TensorRtRtxExporter().export(work)
        listing = next(name for name in draft.files if name.endswith(".layers.json"))
        text = (Path(folder) / listing).read_bytes()
        assert draft.engine is not None
        return Built(
            TypeAdapter(tuple[FusedLayer, ...]).validate_json(text),
            (draft.engine.activation_bytes or 0) / BYTES_PER_MIB,
        )


def _batches(word: str) -> tuple[int, int, int]:
    numbers = [int(part) for part in word.split(",")]
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]


def _arrow(built: Sequence[Built], figure: Callable[[Built], object]) -> str:
    return " → ".join(str(figure(one)) for one in built)


def main(words: Sequence[str] | None = None) -> None:
    """A row for every mixer and batch, over the forms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="micro")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--capability", default="8.9")
    parser.add_argument("--batch", action="append", type=_batches)
    parser.add_argument("--stm", action="append")
    parser.add_argument("--form", action="append")
    saving(parser)
    options = parser.parse_args(words)
    forms = options.form or FORMS
    columns = ("mixer", "batch", f"layers: {' → '.join(forms)}", "kernels", "fused attentions",
               "copies", "activations, MiB", "known part, %")  # fmt: skip
    remark = (
        f"TensorRT-RTX {version(BUILDER)}, compute capability {options.capability}, "
        f"{options.precision}; built, not run"
    )
    with table("engines", "python -m benchmarks.engines", CODE, columns, remark,
               save=options.save) as add:  # fmt: skip
        for stm in options.stm or STMS:
            spec = ModelSpec(f"unified_{stm}_{options.scale}")
            model = build_model(spec, Silent())
            for batch in options.batch or [(1, 1, 1), (32, 32, 32)]:
                engine = EngineSpec(batch, compute_capabilities=(options.capability,))
                built = [engine_of(model, spec, form, options.precision, engine) for form in forms]
                shown = str(batch[0]) if batch[0] == batch[2] else "..".join(map(str, batch[::2]))
                layers = [len(one.layers) for one in built]
                fewer = f" ({100 * (layers[-1] / layers[0] - 1):+.0f} %)"
                add(
                    stm, shown, _arrow(built, lambda one: len(one.layers)) + fewer,
                    _arrow(built, lambda one: one.kernels),
                    _arrow(built, lambda one: one.attentions),
                    _arrow(built, lambda one: one.copies),
                    _arrow(built, lambda one: f"{one.activation_mib:.1f}"),
                    _arrow(built, lambda one: f"{one.known_percent:.0f}"),
                )  # fmt: skip


if __name__ == "__main__":
    main()
