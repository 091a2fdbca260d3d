"""Rows as a pandas frame: one column per figure, units in the names."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.errors import StmdeployError
from stmdeploy.files import write_atomically
from stmdeploy.results.row import Measurement, Row, ScenarioResult
from stmdeploy.spec import LOOP

#: How a cell begins that spreadsheets compute.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "parquet", "json", "timm")
_NESTED = frozenset({"runtime_facts", "before", "after", "scenario", "advice"})
_SCENARIO_FIGURES = tuple(name for name in ScenarioResult.model_fields if name != "scenario")
_FACTS = ("runtime_version", "provider", "advice")
_APART = {
    "measurement",
    "environment",
    "uncounted_operators",
    "bound",
    "parts_ms",
    "accuracy",
    "tries",
}


def flat(row: Row) -> dict[str, Any]:
    """A row as one level of figures, without the nested tables.

    A row that failed has the same keys, its measured figures None.
    """
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
    uncounted = " ".join(f"{op}:{n}" for op, n in row.uncounted_operators.items())
    return {
        **row.model_dump(exclude=_APART),
        **measured,
        "node_name": row.tries[-1].node if row.tries else "",
        "tries": len(row.tries),
        **_accuracy_figures(row),
        **_bound_figures(row),
        "uncounted_operators": uncounted,
        **{f"environment_{key}": value for key, value in environment.items()},
    }


def _accuracy_figures(row: Row) -> dict[str, Any]:
    """What was measured of the artifact's accuracy; all None where nothing was."""
    found = row.accuracy
    return {
        "measured_top1_percent": found.top1.percent if found else None,
        "measured_top1_percent_low": found.top1.low if found else None,
        "measured_top1_percent_high": found.top1.high if found else None,
        "measured_top5_percent": found.top5.percent if found else None,
        "agreement_percent": found.agreement.percent if found and found.agreement else None,
        "measured_images": found.images if found else None,
        "measured_data": found.data if found else None,
    }


def _bound_figures(row: Row) -> dict[str, Any]:
    """The bound of a row, what it rests on, and how near the row comes to it."""
    found = row.bound
    return {
        "efficiency": row.efficiency,
        "bound_ms": found.bound_ms if found else None,
        "bound_compute_ms": found.compute_ms if found else None,
        "bound_memory_ms": found.memory_ms if found else None,
        "graph_macs": found.macs if found else None,
        "graph_bytes": found.bytes if found else None,
        "peak_tflops": found.rate.tflops if found else None,
        "peak_by": found.rate.by if found else None,
        "peak_kind": found.peaks.kind if found else None,
        "memory_gb_s": found.peaks.memory[-1].gb_s if found else None,
    }


def to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per row, one column per figure of `flat`."""
    import pandas as pd

    return pd.DataFrame([flat(row) for row in rows])


def to_timm_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The columns of timm's inference benchmarks, of the rows that it could have measured.

    Steps are means in milliseconds, as there; parameters, MACs and activations in millions,
    billions and millions.
    """
    import pandas as pd

    measured = [(row, row.measurement) for row in rows if row.scenario == LOOP]
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
            for row, m in measured
            if m is not None and row.failure is None
        ]
    )


def write_frame(rows: Sequence[Row], path: Path, form: str) -> None:
    """Writes rows in one of `FORMATS`, whole or not at all.

    Raises:
        StmdeployError: an unknown format, or the file cannot be written.
    """
    if form not in FORMATS:
        raise StmdeployError(f"cannot write {path}", "end the name in .csv, .parquet or .json")
    if form == "json":
        document = {"rows": [row.model_dump(mode="json") for row in rows]}
        write_atomically(path, json.dumps(document, indent=1).encode())
    elif form == "parquet":
        buffer = io.BytesIO()
        to_frame(rows).to_parquet(buffer, index=False)
        write_atomically(path, buffer.getvalue())
    else:
        frame = to_timm_frame(rows) if form == "timm" else to_frame(rows)
        safe = frame.map(lambda cell: _spreadsheet_text(cell) if isinstance(cell, str) else cell)
        write_atomically(path, safe.to_csv(index=False).encode("utf-8", "backslashreplace"))


def _spreadsheet_text(text: str) -> str:
    """For a cell of CSV: a quotation mark keeps what begins a formula from being computed."""
    return f"'{text}" if text.startswith(_FORMULA) else text
