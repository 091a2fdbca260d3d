"""`profile --layers`: where the time of each row goes, operator by operator."""

from __future__ import annotations

from pathlib import Path

from stmdeploy.cli import console
from stmdeploy.files.writing import writable, write_atomically
from stmdeploy.report.layers import chrome_trace, layers_document, layers_table
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.explanation import LayerTimes, layers_of


def show_layers(spec: SweepSpec, trace: Path | None, *, json: bool) -> None:
    """Prints a table of every row, and writes a Chrome trace of each into the folder `trace`."""
    with console.progress() as progress:
        found = layers_of(spec, progress)
    if trace is not None:
        with writable(trace):
            for times in found:
                text = chrome_trace(_title(times), times.inferences)
                write_atomically(trace / f"{_file_name(times)}.json", text.encode())
    document = [
        {
            "model": times.row.model.name,
            "runtime": times.row.run.runtime,
            "precision": times.row.run.precision,
            "batch": times.row.run.batch,
            **layers_document(times.inferences),
        }
        for times in found
    ]
    tables = (layers_table(_title(times), times.inferences) for times in found)
    console.show({"layers": document}, *tables, json=json)


def _title(times: LayerTimes) -> str:
    run = times.row.run
    return f"{times.row.model.label}, {run.runtime} {run.precision}, batch {run.batch}"


def _file_name(times: LayerTimes) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in _title(times))
