"""The promise matrix, kept: every yes of `stmdeploy.promises` exported and verified.

    python -m tests.matrix [--scale micro,tiny] [--results FILE] [--processes 2]

One line each as it ends, kept in a file, so that the next call goes on where this one was ended;
what was exported by other code, or with other packages, is exported again. Ends in a table, and
with exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tests.conftest  # noqa: F401  (the scale nano)
from stmdeploy.artifacts.promises import Promise, promises
from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.progress import Silent
from stmdeploy.plugins.registry import exporters
from stmdeploy.report.text_table import TextTable
from stmdeploy.spec.export import LOWERINGS, PRECISIONS, CalibrationSpec, EngineSpec, ExportSpec
from stmdeploy.spec.model import CLASSIFICATION, DEFAULT_SIZES, ModelSpec, parse_image_size

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / ".matrix.jsonl"
#: What a result depends on, beside the code of this project.
PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "tensorrt_rtx_cu12", "numpy")
#: Folders that no export runs through, and the promises themselves, which are told the form.
APART = {"cli", "cluster", "measure", "regression", "report", "results", "promises"}
#: Enough to set scales with; what comes of them is not judged here.
CALIBRATION = CalibrationSpec(images=2)
#: Classes and batches of the small sizes that CI looks at.
FEW_CLASSES, SMALL_ENGINE = 100, EngineSpec(batch=(1, 2, 4))


class Told(Silent):
    """Remembers the warnings of an export."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        if not text.startswith(("WARNING: int8 scales", "WARNING: fp8 scales")):
            self.warnings.append(text)


def key(promise: Promise) -> str:
    """A combination as one word."""
    words = (promise.model, promise.target, promise.precision, promise.lowering)
    return " ".join(words if promise.task == CLASSIFICATION else (*words, promise.task))


def kept_promises(scales: Iterable[str], task: str = CLASSIFICATION) -> list[Promise]:
    """Every yes of some scales for a task, as far as the targets can be used here."""
    wanted = tuple(f"_{scale}" for scale in scales)
    here = {name for name, exporter in exporters().items() if not exporter.unavailable()}
    found = [
        p
        for p in promises()
        if p.claim == "yes" and p.task == task and p.target in here
        and p.model.endswith(wanted)
    ]  # fmt: skip
    # One trace serves every target and precision of a form.
    return sorted(found, key=lambda p: (p.model, LOWERINGS.index(p.lowering), p.target))


def keep(promise: Promise, model: ModelSpec, engine: EngineSpec | None = None) -> dict[str, Any]:
    """Exports and verifies one combination; what came of it."""
    from stmdeploy.artifacts.artifact import export_built
    from stmdeploy.backbones.source import build_model

    begun, told = time.monotonic(), Told()
    result: dict[str, Any] = {"key": key(promise), **vars(promise), "failure": ""}
    with TemporaryDirectory() as folder:
        spec = ExportSpec(
            model, promise.target, Path(folder), promise.precision, promise.lowering,
            calibration=CALIBRATION, engine=engine or EngineSpec(),
        )  # fmt: skip
        try:
            if model not in _built:
                _built.clear()
                _built[model] = build_model(model, told)
            artifact = export_built(_built[model], exporters()[promise.target], spec, told)
        except StmdeployError as error:
            result["failure"] = error.message
        except Exception as error:  # noqa: BLE001  (one combination must not end the others)
            result["failure"] = f"{type(error).__name__}: {error}"
        else:
            manifest = artifact.manifest
            result |= {
                "relative_l2_error": manifest.proof.relative_l2_error,
                "row_dependence": manifest.proof.row_dependence,
                "state": manifest.state,
                "layers": manifest.engine and manifest.engine.layers_after,
            }
    return {**result, "warnings": told.warnings, "seconds": round(time.monotonic() - begun, 1)}


_built: dict[ModelSpec, Any] = {}


def _in_process(
    some: list[Promise], results: Path, stamp: str, size: tuple[int, int] | None
) -> int:
    """All of one model, in a process of its own; how many failed."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {mine[os.getpid() % len(mine)]})
    failed = 0
    for promise in some:
        wanted = size or DEFAULT_SIZES[promise.task]
        model = ModelSpec(promise.model, wanted, task=promise.task)
        result = keep(promise, model)
        failed += bool(result["failure"])
        with results.open("a") as file:  # one write a line: processes share the file
            file.write(json.dumps({**result, "stamp": stamp}) + "\n")
        said = result["failure"] or f"{result['relative_l2_error']:.1e} relative L2"
        print(f"{result['key']}: {said}, {result['seconds']} s", flush=True)  # noqa: T201
    return failed


def stamp() -> str:
    """What results depend on, as one word."""
    digest = hashlib.sha256()
    files = [p for folder in ("stmdeploy", "exporters") for p in (ROOT / folder).rglob("*.*")]
    for path in sorted(files):
        if path.suffix in (".py", ".toml") and not APART & {path.stem, *path.parts}:
            digest.update(path.read_bytes())
    for package in PACKAGES:
        digest.update(version(package).encode())
    return digest.hexdigest()[:16]


def results_of(path: Path, of: str) -> dict[str, dict[str, Any]]:
    """What a file knows, of the present code and packages, by combination."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = (json.loads(line) for line in lines if line.endswith("}"))
    return {result["key"]: result for result in found if result["stamp"] == of}


def table(wanted: list[Promise], found: dict[str, dict[str, Any]]) -> TextTable:
    """A line for every model and target: the worst error of every precision, or what failed."""
    lines: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for promise in wanted:
        row = lines.setdefault((promise.model, promise.target), {})
        row.setdefault(promise.precision, []).append(found[key(promise)])
    cells = tuple(
        (*names, *(_cell(row.get(precision, [])) for precision in PRECISIONS))
        for names, row in lines.items()
    )
    failed = [f"{r['key']}: {r['failure']}" for r in found.values() if r["failure"]]
    dependent = max((r.get("row_dependence") or 0.0 for r in found.values()
                     if r["precision"] != "int8-dynamic"), default=0.0)  # fmt: skip
    notes = (
        f"{len(wanted)} promises, {len(failed)} failed. Forms in brackets; errors are relative L2 "
        "of the worst row against float64.",
        f"No row depended on others by more than {dependent:.1e} (int8-dynamic left out).",
        *failed,
    )
    return TextTable(("backbone", "target", *PRECISIONS), cells, left=2, keys=2, notes=notes)


def _cell(results: list[dict[str, Any]]) -> str:
    if not results:
        return "-"
    if any(result["failure"] for result in results):
        return "FAILED"
    worst = max(result["relative_l2_error"] for result in results)
    return f"{worst:.1e} ({len(results)})"


def main() -> int:
    """Keeps what is not kept yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="micro,tiny")
    parser.add_argument("--task", default=CLASSIFICATION)
    parser.add_argument("--image-size", type=parse_image_size)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    wanted, mark = kept_promises(options.scale.split(","), options.task), stamp()
    known = results_of(options.results, mark)
    by_model: dict[str, list[Promise]] = {}
    for promise in wanted:
        if known.get(key(promise), {"failure": "not yet"})["failure"]:
            by_model.setdefault(promise.model, []).append(promise)
    left = sum(map(len, by_model.values()))
    print(f"{len(wanted)} promises, {left} to be kept", flush=True)  # noqa: T201
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context, max_tasks_per_child=1) as pool:
        running = [pool.submit(_in_process, some, options.results, mark, options.image_size)
                   for some in by_model.values()]  # fmt: skip
        for one in as_completed(running):
            if one.exception() is not None:
                print(f"a process ended: {one.exception()}", flush=True)  # noqa: T201
    found = results_of(options.results, mark)
    for promise in wanted:
        missing = {"key": key(promise), **vars(promise), "failure": "its process died"}
        found.setdefault(key(promise), missing)
    print(table(wanted, found).markdown())  # noqa: T201
    return int(any(result["failure"] for result in found.values()))


if __name__ == "__main__":
    sys.exit(main())
