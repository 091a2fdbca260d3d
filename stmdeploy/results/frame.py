"""Rows as a pandas frame: one column per figure, units in the names."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.files import write_atomically
from stmdeploy.results.row import Measurement, Row

if TYPE_CHECKING:
    import pandas as pd


_FACTS = ("runtime_version", "provider", "samples")
FORMATS = ("csv", "parquet")


def flat(row: Row) -> dict[str, Any]:
    """A row as one level of figures, without the raw samples and the nested tables.

    A row that failed has the same keys, its measured figures None.
    """
    nested = {"measurement", "environment", "uncounted_operators"}
    raw = {"warmup_ms", "samples_ms", "runtime_facts"}
    measured: dict[str, Any] = dict.fromkeys(
        [*(name for name in Measurement.model_fields if name not in raw), *_FACTS]
    )
    if row.measurement is not None:
        measured = row.measurement.model_dump(exclude=raw)
        facts = row.measurement.runtime_facts
        measured["runtime_version"] = facts.get("version")
        measured["provider"] = facts.get("provider")
        measured["samples"] = len(row.measurement.samples_ms)
    environment = row.environment.model_dump(include={"processor", "cores", "memory_gib", "os"})
    uncounted = " ".join(f"{op}:{n}" for op, n in row.uncounted_operators.items())
    return {
        **row.model_dump(exclude=nested),
        **measured,
        "uncounted_operators": uncounted,
        **{f"environment_{key}": value for key, value in environment.items()},
    }


def to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per row, one column per figure of `flat`."""
    import pandas as pd

    return pd.DataFrame([flat(row) for row in rows])


def write_frame(rows: Sequence[Row], path: Path, form: str) -> None:
    """Writes rows in one of `FORMATS`, whole or not at all."""
    frame = to_frame(rows)
    if form == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_atomically(path, buffer.getvalue())
    else:
        write_atomically(path, frame.to_csv(index=False).encode("utf-8", "backslashreplace"))
