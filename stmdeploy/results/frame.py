"""Rows as pandas frames and files: one column per figure, units in the names."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import write_atomically
from stmdeploy.schema.evaluation import Evaluation
from stmdeploy.schema.hardware import Bound
from stmdeploy.schema.invariance import Invariance
from stmdeploy.schema.measurement import Measurement, ScenarioResult
from stmdeploy.schema.receptive_field import ReceptiveField
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import CLASSIFICATION
from stmdeploy.spec.run import LOOP

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

#: A cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
FORMATS = ("csv", "parquet", "json", "timm")
_NESTED = frozenset("runtime_facts before after scenario advice".split())
_SCENARIO_FIGURES = tuple(name for name in ScenarioResult.model_fields if name != "scenario")
_FACTS = ("runtime_version", "provider", "advice")
#: Columns of the artifact's measured accuracy.
_ACCURACY: dict[str, Callable[[Evaluation], object]] = {
    "measured_top1_percent": lambda found: found.top1.percent,
    "measured_top1_percent_low": lambda found: found.top1.low,
    "measured_top1_percent_high": lambda found: found.top1.high,
    "measured_top5_percent": lambda found: found.top5.percent,
    "agreement_percent": lambda found: found.agreement.percent if found.agreement else None,
    "measured_images": lambda found: found.images,
    "measured_data": lambda found: found.data,
}
#: Columns of the artifact's invariance.
_INVARIANCE: dict[str, Callable[[Invariance], object]] = {
    "consistency_percent": lambda found: found.consistency.value,
    "consistency_percent_low": lambda found: found.consistency.low,
    "consistency_percent_high": lambda found: found.consistency.high,
    "consistency_transforms": lambda found: found.transforms,
    "consistency_protocol": lambda found: found.protocol,
    "consistency_images": lambda found: found.images,
    "consistency_data": lambda found: found.data,
}
#: Columns of the network's receptive fields: of the last stage.
_RECEPTIVE_FIELD: dict[str, Callable[[ReceptiveField], object]] = {
    "receptive_field_px_50_percent": lambda found: found.stages[-1].sides_px.get("50"),
    "receptive_field_px_99_percent": lambda found: found.stages[-1].sides_px.get("99"),
    "receptive_field_data": lambda found: found.data,
}
#: Columns of a row's bound, and of the peaks that it is computed from.
_BOUND: dict[str, Callable[[Bound], object]] = {
    "bound_ms": lambda found: found.bound_ms,
    "bound_compute_ms": lambda found: found.compute_ms,
    "bound_memory_ms": lambda found: found.memory_ms,
    "graph_macs": lambda found: found.macs,
    "graph_bytes": lambda found: found.bytes,
    "peak_tflops": lambda found: found.rate.tflops,
    "peak_by": lambda found: found.rate.by,
    "peak_kind": lambda found: found.peaks.kind,
    "memory_gb_s": lambda found: found.peaks.memory[-1].gb_s,
}
_APART = set(
    "measurement environment uncounted_operators bound parts_ms accuracy invariance "
    "receptive_field tries contrasts".split()
)


def flat(row: Row) -> dict[str, Any]:
    """A row as a flat table of figures.

    The keys are the same for every row; what was not measured is None.
    """
    if row.task == CLASSIFICATION:  # older stores paired it with another network's figures
        none = {"published_box_ap_percent": None, "published_mask_ap_percent": None}
        row = row.model_copy(update=none)
    names = [name for name in Measurement.model_fields if name not in _NESTED]
    scenario_names = [f"scenario_{name}" for name in _SCENARIO_FIGURES]
    measured: dict[str, Any] = dict.fromkeys([*names, *_FACTS, *scenario_names])
    if row.measurement is not None:
        measured |= row.measurement.model_dump(exclude=set(_NESTED))
        facts = row.measurement.runtime_facts
        measured |= {"runtime_version": facts.get("version"), "provider": facts.get("provider")}
        measured["advice"] = "; ".join(row.measurement.advice)
        if row.measurement.scenario is not None:
            result = row.measurement.scenario.model_dump(exclude={"scenario"})
            result["reasons"] = "; ".join(result["reasons"])
            measured |= {f"scenario_{name}": value for name, value in result.items()}
    environment = row.environment.model_dump(include={"processor", "cores", "memory_gib", "os"})
    return {
        **row.model_dump(exclude=_APART),
        **measured,
        "node_name": row.tries[-1].node if row.tries else "",
        "tries": len(row.tries),
        **_figures(row.accuracy, _ACCURACY),
        **_figures(row.invariance, _INVARIANCE),
        **_figures(row.receptive_field, _RECEPTIVE_FIELD),
        "efficiency": row.efficiency,
        **_figures(row.bound, _BOUND),
        "uncounted_operators": " ".join(f"{op}:{n}" for op, n in row.uncounted_operators.items()),
        **{f"environment_{key}": value for key, value in environment.items()},
    }


def _figures(part: T | None, columns: dict[str, Callable[[T], object]]) -> dict[str, Any]:
    """The columns of a part of a row; all None if the row has no such part."""
    return {name: None if part is None else of(part) for name, of in columns.items()}


def to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per row, one column per figure of `flat`."""
    import pandas as pd

    return pd.DataFrame([flat(row) for row in rows])


def to_timm_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The columns of timm's inference benchmarks, for the rows of stmdeploy's own loop.

    As in timm, steps are means in milliseconds, parameters and activations are in millions and
    MACs in billions.
    """
    import pandas as pd

    measured = (row for row in rows if row.scenario == LOOP and row.failure is None)
    return pd.DataFrame(
        [
            {
                "model": row.model,
                "infer_img_size": row.image_width_px,
                "infer_samples_per_sec": round(m.throughput_images_s, 2),
                "infer_step_time": round(m.latency_ms_mean, 3),
                "infer_batch_size": row.batch,
                "param_count": round(row.parameters / 1e6, 2),
                "infer_gmacs": round(row.macs / 1e9, 2),
                "infer_macts": round(row.activations / 1e6, 2),
            }
            for row in measured
            if (m := row.measurement) is not None
        ]
    )


def write_frame(rows: Sequence[Row], path: Path, form: str) -> None:
    """Writes rows in one of `FORMATS`, whole or not at all.

    Raises:
        StmdeployError: an unknown format, or the file cannot be written.
    """
    if form not in FORMATS:
        told = f"cannot write {path}: its name ends in no known format"
        raise StmdeployError(told, "end the name in .csv, .parquet or .json")
    if form == "json":
        document = {"rows": [row.model_dump(mode="json") for row in rows]}
        content = json.dumps(document, indent=1).encode()
    elif form == "parquet":
        content = to_frame(rows).to_parquet(index=False)
    else:
        frame = to_timm_frame(rows) if form == "timm" else to_frame(rows)
        safe = frame.map(lambda cell: _spreadsheet_text(cell) if isinstance(cell, str) else cell)
        content = safe.to_csv(index=False).encode("utf-8", "backslashreplace")
    write_atomically(path, content)


def _spreadsheet_text(text: str) -> str:
    """A cell of CSV, with a quotation mark before what a spreadsheet would compute."""
    return f"'{text}" if text.startswith(_FORMULA) else text
