"""Checks before any work whether a sweep can be measured at all."""

from __future__ import annotations

import subprocess
from importlib.metadata import version

from stmdeploy.artifacts.promises import check_precision
from stmdeploy.cluster.planning import check_cluster_sweep
from stmdeploy.errors import StmdeployError
from stmdeploy.measure.loadgen import why_no_loadgen
from stmdeploy.plugins.registry import exporter_for_runtime
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import LOOP
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.worker.client import WORKER
from stmdeploy.worker.process import worker_environment

_INTERPRETER_TIMEOUT_S = 60


def check_sweep(spec: SweepSpec) -> None:
    """Raises StmdeployError for a runtime, precision or interpreter that cannot be used."""
    asked = spec.precisions if any(model.file is None for model in spec.models) else ()
    for run in spec.runs:
        exporter = exporter_for_runtime(run.runtime, source_only=bool(run.node))
        for precision in asked:
            if (run.runtime, precision) not in spec.left_out:
                check_precision(exporter, precision)
    measured = {row.model for row in spec.rows()}
    for model in spec.models:
        if model not in measured:
            raise StmdeployError(*_no_row(model, spec))
    if spec.nodes:
        check_cluster_sweep(spec)
        return
    for run in spec.runs:
        if run.scenario.name != LOOP and not run.python and (hint := why_no_loadgen()):
            raise StmdeployError("mlcommons-loadgen is not installed", hint)
    check_interpreters({run.python for run in spec.runs})


def _no_row(model: ModelSpec, spec: SweepSpec) -> tuple[str, str]:
    """Why nothing is left to measure of a model, and what to do."""
    runtimes = " or ".join(dict.fromkeys(run.runtime for run in spec.runs))
    if (file := model.file) is None:
        return f"no row of {model.label} is left to measure", "give another --precision"
    if file.batch is not None and all(run.batch != file.batch for run in spec.runs):
        return f"{model.name} takes {file.batch} images per inference", "leave --batch out"
    ways = ", ".join(f"{runtime} in {precision}" for runtime, precision in file.ways)
    return f"{model.name} does not run so on {runtimes}", f"it runs on: {ways or 'nothing here'}"


def check_interpreters(pythons: set[str]) -> None:
    """Raises StmdeployError for an interpreter that does not start or lacks this stmdeploy."""
    mine = version("stmdeploy")
    for python in pythons - {""}:
        command = [python, "-P", "-c", f"import {WORKER}; print(stmdeploy.__version__)"]
        try:
            found = subprocess.run(
                command, capture_output=True, text=True, check=False,
                timeout=_INTERPRETER_TIMEOUT_S, env=worker_environment({}),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            told = f"--python {python} cannot be started: {error}"
            raise StmdeployError(told, "give the path of a Python interpreter") from error
        if found.returncode or found.stdout.strip() != mine:
            hint = f"{python} -m pip install stmdeploy=={mine}"
            raise StmdeployError(f"--python {python} has no stmdeploy {mine}", hint)
