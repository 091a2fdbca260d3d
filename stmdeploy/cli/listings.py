"""What `stmdeploy list` shows: each listing as plain entries and as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from stmdeploy.backbones.catalog import list_backbones, resolve
from stmdeploy.backbones.sizes import side_step_px
from stmdeploy.report.tables import ABSENT, TextTable

Listed = tuple[list[dict[str, Any]], TextTable]


def backbones() -> Listed:
    """Every backbone with its geometry and published accuracy."""
    configs = [resolve(name) for name in list_backbones()]
    entries = [{**asdict(config), "image_side_step_px": side_step_px(config)} for config in configs]
    headers = (
        "name", "stm", "scale", "mixer", "depths", "dims", "sides, px", "top-1 %", "box AP",
        "mask AP",
    )  # fmt: skip
    cells = []
    for config in configs:
        published = (ABSENT, ABSENT, ABSENT)
        if config.published:
            accuracy = config.published
            published = (
                f"{accuracy.top1_percent:.1f}",
                f"{accuracy.box_ap_percent:.1f}",
                f"{accuracy.mask_ap_percent:.1f}",
            )
        geometry = (" ".join(map(str, config.depths)), " ".join(map(str, config.dims)))
        step = f"n x {side_step_px(config)}"
        cells.append(
            (config.name, config.stm, config.scale, config.mixer, *geometry, step, *published)
        )
    note = "Accuracy is published by the authors: ImageNet-1k top-1, COCO Mask R-CNN 1x."
    return entries, TextTable(headers, tuple(cells), left=6, notes=(note,))


def targets() -> Listed:
    """Every export target, its runtimes, and whether it can be used here."""
    from stmdeploy.registry import exporters

    entries: list[dict[str, Any]] = [
        {
            "target": name,
            "runtimes": list(exporter.runtimes),
            "suffix": exporter.suffix,
            "precisions": list(exporter.tolerances),
            "unavailable": exporter.unavailable(),
        }
        for name, exporter in exporters().items()
    ]
    cells = tuple(
        (
            e["target"],
            ", ".join(e["runtimes"]),
            ", ".join(e["precisions"]),
            e["suffix"],
            e["unavailable"] or "yes",
        )
        for e in entries
    )
    return entries, TextTable(
        ("target", "runtimes", "precisions", "file", "usable here"), cells, left=5
    )


def gpus() -> Listed:
    """Every GPU that ``--gpu`` knows, with datasheet figures."""
    from stmdeploy.hardware import describe_machine, gpu_profiles

    profiles = list(gpu_profiles().values())
    headers = (
        "--gpu",
        "title",
        "compute",
        "memory GB",
        "GB/s",
        "fp32 TFLOPS",
        "fp16 tensor TFLOPS",
    )
    cells = tuple(
        (p.name, p.title, p.compute_capability, f"{p.memory_gb:g}", f"{p.bandwidth_gb_s:g}",
         f"{p.fp32_tflops:g}", f"{p.fp16_tensor_tflops:g}")
        for p in profiles
    )  # fmt: skip
    notes = ("Figures are from the datasheets, dense.", f"This machine has {describe_machine()}.")
    return [asdict(p) for p in profiles], TextTable(headers, cells, left=3, notes=notes)


LISTINGS: dict[str, Callable[[], Listed]] = {
    "backbones": backbones,
    "targets": targets,
    "gpus": gpus,
}
