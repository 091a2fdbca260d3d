"""`profile --dry-run`: which rows a sweep has, and how long it may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from stmdeploy.cli import console
from stmdeploy.cluster.kinds import Chosen, Kind
from stmdeploy.errors import StmdeployError
from stmdeploy.measure.summary import longest_row_s
from stmdeploy.report.text_table import TextTable, counted
from stmdeploy.results.store import Store
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import LOOP, RunSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.asked import check_sweep
from stmdeploy.sweeps.profile import Place, plan_cluster

#: Settings that are numbers, and stand on the right.
_NUMBERS = ("batch", "in flight", "threads")
#: Seconds to explain a row, and to measure the processor's peaks in one round.
_EXPLAIN_S, _PEAKS_S = 4.0, 6.0
#: Seconds of an export of which the store knows no time.
_EXPORT_S = 25.0
#: The default node and interpreter; not worth a note when all rows have them.
_USUAL = _HERE, _THIS = "this machine", "this"


def show_plan(spec: SweepSpec, place: Place, *, json: bool) -> None:
    """Prints the rows of a sweep, and how many minutes it takes at most.

    Raises:
        StmdeployError: as `check_sweep`; with a cluster, as `plan_cluster`.
    """
    check_sweep(spec)
    chosen = plan_cluster(spec, place.cluster).chosen if place.cluster is not None else {}
    rows = [(row.model, row.run) for row in spec.rows()]
    export_s, measure_s = _exports_s(spec, place), _longest_s(spec, chosen)
    document = {
        "rows": [
            {
                "model": model.name, "task": model.task, "neck": model.neck,
                "image_size": model.image_size, "precision": run.precision,
                "runtime": run.runtime, "batch": run.batch, "threads": run.threads,
                "in_flight": run.in_flight, "device": run.device,
                "scenario": run.scenario.name, "node": run.node, "python": run.python,
            }
            for model, run in rows
        ],
        "nodes": {kind.name: [n.label for n in c.nodes] for kind, c in chosen.items()},
        "estimated_export_s": export_s,
        "estimated_measuring_s_at_most": measure_s,
    }  # fmt: skip
    estimate = (
        f"{counted(len(rows), 'row')}. Exports: about {export_s / 60:.1f} min; "
        f"measuring: at most {measure_s / 60:.1f} min. Estimated, not measured."
    )
    console.show(document, plan_table(rows, (*_where(rows, chosen), estimate)), json=json)


def plan_table(rows: Sequence[tuple[ModelSpec, RunSpec]], notes: tuple[str, ...]) -> TextTable:
    """One line per row with the settings that vary; the notes name those that do not."""
    runs = [run for _, run in rows]
    settings = {
        "node": [run.node or _HERE for run in runs],
        "python": [run.python or _THIS for run in runs],
        "runtime": [run.runtime for run in runs],
        "precision": [run.precision for run in runs],
        "scenario": [run.scenario.name for run in runs],
        "batch": [str(run.batch) for run in runs],
        "in flight": [str(run.in_flight) for run in runs],
        "threads": [str(run.threads) for run in runs],
    }
    shown = [name for name, cells in settings.items() if name == "batch" or len(set(cells)) > 1]
    same = ", ".join(
        f"{name} {cells[0]}"
        for name, cells in settings.items()
        if name not in shown and cells[0] not in _USUAL
    )
    return TextTable(
        ("backbone", *shown),
        tuple(
            (model.label, *(settings[name][i] for name in shown))
            for i, (model, _) in enumerate(rows)
        ),
        left=1 + sum(name not in _NUMBERS for name in shown),
        notes=(*((f"Every row: {same}.",) if same else ()), *notes),
        keys=1 + len(shown),
    )


def _where(
    rows: Sequence[tuple[ModelSpec, RunSpec]], chosen: Mapping[Kind, Chosen]
) -> tuple[str, ...]:
    """How many rows would run on which nodes, a line for every kind of node."""
    lines = []
    for kind, found in chosen.items():
        count = sum(run.node == kind.name for _, run in rows)
        names = ", ".join(node.label for node in found.nodes)
        rows_on = f"{counted(count, 'row')} on {counted(len(found.nodes), 'node')}"
        lines.append(f"{kind.flag}: {rows_on}: {names}")
        lines += [f"left out for {kind.flag}: {reason}" for reason in found.avoided.values()]
    return tuple(lines)


def _longest_s(spec: SweepSpec, chosen: Mapping[Kind, Chosen]) -> float:
    """Seconds at most on this machine, or on the kind of nodes that is busy longest."""
    if not chosen:
        return _measuring_s(spec)
    return max(
        _measuring_s(replace(spec, runs=tuple(r for r in spec.runs if r.node == kind.name)))
        / len(found.nodes)
        for kind, found in chosen.items()
    )


def _measuring_s(spec: SweepSpec) -> float:
    """Seconds at most, unless runs last longer than their share of the budget."""
    sampling = spec.sampling
    row_s = longest_row_s(sampling)
    explaining_s = 0.0
    if spec.explain:
        threads = {run.threads for run in spec.runs if run.device == "cpu"}
        explaining_s = len(spec.rows()) * _EXPLAIN_S
        explaining_s += len(threads) * sampling.processes * _PEAKS_S
    return explaining_s + sum(
        row_s
        if row.run.scenario.name == LOOP
        else row.run.scenario.duration_s + row_s / sampling.processes
        for row in spec.rows()
    )


def _exports_s(spec: SweepSpec, place: Place) -> float:
    """Seconds of all exports, from what those of the same models took before if it is stored."""
    known: dict[str, float] = {}
    with suppress(StmdeployError):  # no store yet
        store = Store(place.folder, url=place.store_url)
        for sweep in store.sweeps():
            for prepared in store.prepared(sweep.id).values():
                for artifact in prepared.artifacts:
                    if artifact.export_s is not None:
                        known[prepared.model.name] = artifact.export_s
    targets = len({run.runtime for run in spec.runs}) * len(spec.precisions)
    return targets * sum(known.get(model.name, _EXPORT_S) for model in spec.models)
