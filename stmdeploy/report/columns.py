"""The columns of the report: what each figure is, in which unit, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stmdeploy.report.profile_table import scenario_of
from stmdeploy.report.ratios import BESIDE
from stmdeploy.report.recommendation import memory_mib, top1_of
from stmdeploy.results.frame import flat
from stmdeploy.schema.row import Row

#: What the published average precisions are of.
_DETECTOR = "(COCO, Mask R-CNN 1x)"


@dataclass(frozen=True)
class Column:
    """A column: its key, its heading with the unit, and its origin.

    ``origin``: ``row`` (what it is), or how the figure was found, as the heading says it below its
    name: ``measured``, ``published``, ``counted``, ``bound``.
    ``digits`` are significant ones; None for text and whole numbers.
    """

    key: str
    label: str
    origin: str
    digits: int | None = None


COLUMNS = (
    Column("model", "backbone", "row"),
    Column("task", "task", "row"),
    Column("runtime", "runtime", "row"),
    Column("precision", "precision", "row"),
    Column("device_name", "device", "row"),
    Column("batch", "batch", "row"),
    Column("published_top1_percent", "top-1 %", "published", 3),
    Column("measured_top1_percent", "top-1 %", "measured", 4),
    Column("measured_top5_percent", "top-5 %", "measured", 4),
    Column("consistency_percent", "consistency %", "measured", 4),
    Column("receptive_field_px_50_percent", "receptive field px, 50 %", "measured", 3),
    Column("receptive_field_px_99_percent", "receptive field px, 99 %", "measured", 3),
    Column("published_box_ap_percent", f"box AP {_DETECTOR}", "published", 3),
    Column("published_mask_ap_percent", f"mask AP {_DETECTOR}", "published", 3),
    Column("latency_ms_p50", "latency ms", "measured", 3),
    Column("latency_ms_p50_low", "95 % from", "measured", 3),
    Column("latency_ms_p50_high", "95 % to", "measured", 3),
    Column("ratio", "times the reference", "measured by turns", 4),
    Column("ratio_low", "95 % from", "measured by turns", 4),
    Column("ratio_high", "95 % to", "measured by turns", 4),
    Column("group", "group", "measured by turns"),
    Column("latency_ms_p90", "p90 ms", "measured", 3),
    Column("latency_ms_p99", "p99 ms", "measured", 3),
    Column("latency_per_image_ms", "latency per image ms", "measured", 3),
    Column("throughput_images_s", "images/s", "measured", 3),
    Column("efficiency_percent", "efficiency %", "bound over measured", 2),
    Column("bound_ms", "bound ms", "bound", 3),
    Column("memory_mib", "memory MiB", "measured", 3),
    Column("energy_j_per_image", "J per image", "measured", 3),
    Column("gmacs", "GMACs per image", "counted", 3),
    Column("params_m", "parameters M", "counted", 3),
    Column("artifact_mib", "artifact MiB", "counted", 3),
    Column("load_ms", "load ms", "measured", 3),
    Column("first_inference_ms", "first inference ms", "measured", 3),
    Column("relative_l2_error", "relative L2 error against float64", "measured", 2),
    Column("stm", "mixer", "row"),
    Column("scale", "scale", "row"),
    Column("image", "image", "row"),
    Column("threads", "threads", "row"),
    Column("in_flight", "in flight", "row"),
    Column("scenario", "scenario", "row"),
    Column("lowering", "lowering", "row"),
    Column("reference", "reference", "row"),
    Column("steady", "steady", "measured"),
    Column("neck", "neck", "row"),
    Column("failure", "failure", "row"),
)


def figures_of(row: Row, beside: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A row's figures by the keys of `COLUMNS`, and a few more that only plots need.

    A failed row has no measured figures, even if some of its processes finished.

    Args:
        beside: those that it takes another row for, as `ratios.figures_beside` gives them.
    """
    if row.failure is not None:
        row = row.model_copy(update={"measurement": None})
    figures = flat(row)
    m = row.measurement
    accuracy = top1_of(row)
    if m is not None and m.scenario is not None:
        # LoadGen's figures and verdict replace ours, which are of a few inferences beside it.
        figures |= {
            "latency_ms_p50": m.scenario.latency_ms_p50,
            "latency_ms_p50_low": None,
            "latency_ms_p50_high": None,
            "latency_ms_p90": m.scenario.latency_ms_p90,
            "latency_ms_p99": m.scenario.latency_ms_p99,
            "scenario": scenario_of(row),
            "steady": None,
        }
    p50 = figures["latency_ms_p50"]
    return {
        **dict.fromkeys(BESIDE),
        **figures,
        **(beside or {}),
        "image": row.image,
        "neck": row.neck or None,
        "latency_per_image_ms": p50 / row.batch if p50 is not None else None,
        "memory_mib": memory_mib(m) if m else None,
        "gmacs": row.macs / 1e9,
        "params_m": row.parameters / 1e6,
        "efficiency_percent": None if row.efficiency is None else 100 * row.efficiency,
        "top1": accuracy.value if accuracy else None,
        "top1_low": accuracy.low if accuracy else None,
        "top1_high": accuracy.high if accuracy else None,
        "top1_kind": accuracy.kind if accuracy else None,
    }
