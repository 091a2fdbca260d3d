"""Measures the measuring: agreement with bare loops, overhead, and ratios of copies.

Run: python -m benchmarks.measuring [agreement] [overhead] [copies] [loadgen] [sweeps] [--save];
without arguments all but the sweeps, about half an hour; these take as long. Whatever is compared
alternates, process by process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import combinations, pairwise
from pathlib import Path

from benchmarks.checking import load_one_core
from benchmarks.evidence import Evidence, evidence_of, keep, saving
from stmdeploy.hardware.environment import environment
from stmdeploy.hardware.machine import available_threads
from stmdeploy.measure.statistics import quantile
from stmdeploy.plugins.progress import Silent
from stmdeploy.report.ratios import compared, contrast_of
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec, ScenarioSpec
from stmdeploy.spec.sweep import RowSpec, SweepSpec
from stmdeploy.sweeps.process import ProcessLimits, Task, one_process
from stmdeploy.sweeps.profile import Place, profile
from tests.sharing import export_model

ROUNDS, SECONDS, COPIES = 30, 1.0, 4
MODEL = ModelSpec("unified_convnext_micro")
BARE_LOOP = """
import json, statistics, sys, time
import numpy as np
import onnxruntime as ort
path, seconds, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads = threads
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
images = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
end = time.perf_counter() + 0.5
while time.perf_counter() < end:
    session.run(None, {"image": images})
times, end = [], time.perf_counter() + seconds
while time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, {"image": images})
    times.append(1000 * (time.perf_counter() - start))
print(statistics.median(times))
"""


def our_process(path: Path, run: RunSpec, logs: Path | None = None) -> ProcessRun:
    """One worker, as a sweep starts it."""
    limits = ProcessLimits(SamplingSpec(budget_s=SECONDS, processes=1), 600.0, None)
    task = Task(RowSpec(MODEL, run), path, limits, environment(), logs or path.parent)
    return one_process(task, Silent())


def ours(path: Path, runtime: str) -> float:
    """Our median of one process, ms."""
    return statistics.median(our_process(path, RunSpec(runtime, 1, available_threads())).samples_ms)


def bare_loop(path: Path) -> float:
    """The median of a bare loop over ONNX Runtime, ms."""
    command = [sys.executable, "-c", BARE_LOOP, str(path), str(SECONDS), str(available_threads())]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def benchmark_app(path: Path) -> float:
    """The median that OpenVINO's own tool prints, ms."""
    command = [
        str(Path(sys.executable).with_name("benchmark_app")), "-m", str(path), "-d", "CPU",
        "-api", "sync", "-hint", "latency", "-t", str(int(SECONDS)), "-infer_precision", "f32",
        "-shape", "[1,3,224,224]",
    ]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Median:\s+([\d.]+) ms", told)
    assert found is not None, told
    return float(found.group(1))


def compare(name: str, one: Callable[[], float], other: Callable[[], float]) -> None:
    """Prints the median ratio of pairs of processes, and how much pairs vary."""
    pairs = []
    for turn in range(ROUNDS):
        # The order changes, so that neither always has the warmer machine.
        if turn % 2:
            b, a = other(), one()
        else:
            a, b = one(), other()
        pairs.append((a, b))
    ratios = sorted(a / b for a, b in pairs)
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{name:42}{statistics.median(ratios):8.3f}   pairs {ratios[0]:.2f} .. {ratios[-1]:.2f}"
        f"   {a:.2f} against {b:.2f} ms",
        flush=True,
    )


def agreement(folder: Path) -> None:
    """Our latency against what other loops measure of the same file."""
    onnx = export_model(ExportSpec(MODEL, "onnx", folder), Silent()).path
    xml = export_model(ExportSpec(MODEL, "openvino", folder), Silent()).path
    print(f"ratio of medians, {ROUNDS} pairs of processes of {SECONDS:g} s:")
    compare("ours / ours", lambda: ours(onnx, "onnxruntime"), lambda: ours(onnx, "onnxruntime"))
    compare("ours / bare ONNX Runtime loop", lambda: ours(onnx, "onnxruntime"),
            lambda: bare_loop(onnx))  # fmt: skip
    compare("ours / OpenVINO benchmark_app", lambda: ours(xml, "openvino"),
            lambda: benchmark_app(xml))  # fmt: skip


#: Inferences by which a process checks its outputs, before its first turn and after its last.
CHECKS = 4


def busy_s(process: ProcessRun) -> float:
    """Seconds that a process spent on imports of the runtime, loading, and inferences."""
    loading = process.runtime_import_ms + process.load_ms + process.first_inference_ms
    checks = CHECKS * statistics.median(process.samples_ms)
    inferences = sum(map(sum, (process.warmup_ms, process.copies_ms)))
    return (loading + checks + inferences) / 1000 + process.turns_s + process.burst_s


def overhead(folder: Path) -> None:
    """What the default sweep of three backbones takes beside exports, loads and inferences."""
    models = tuple(ModelSpec(f"unified_{stm}_micro") for stm in ("halo", "pvt", "convnext"))
    threads = available_threads()
    runs = tuple(RunSpec("onnxruntime", batch, threads) for batch in (1, 8))
    spec = SweepSpec(models, runs)
    told: list[tuple[float, str]] = []

    class Timed(Silent):
        def step(self, text: str) -> None:
            told.append((time.monotonic(), text))

        detail = step

    start = time.monotonic()
    result = profile(spec, Place(folder / "overhead"), Timed(), lambda _: None)
    told.append((time.monotonic(), "end"))
    wall_s = told[-1][0] - start

    def spent_s(words: str) -> float:
        """Seconds from every line with these words to the next line."""
        return sum(after - at for (at, text), (after, _) in pairwise(told) if words in text)

    store = Store(folder / "overhead")
    processes = [
        process
        for position in range(len(result.rows))
        for process in store.processes(result.sweep.id, position)
    ]
    exports_s = next(at for at, text in told if "peaks" in text) - start
    peaks_s, parts_s = spent_s("peaks"), spent_s("profiling the operators")
    work_s = sum(map(busy_s, processes))
    rest_s = wall_s - exports_s - peaks_s - parts_s - work_s
    print(
        f"sweep of {len(result.rows)} rows: {wall_s:.0f} s, of which exports {exports_s:.0f} s, "
        f"peaks of the processor {peaks_s:.0f} s, operators profiled {parts_s:.0f} s, loads and "
        f"inferences of {len(processes)} processes {work_s:.0f} s; the rest, {rest_s:.1f} s, is "
        f"{100 * rest_s / wall_s:.1f} % of all"
    )


def copies(folder: Path) -> None:
    """Ratios of rows that do not differ: how often their intervals hold 1, and how wide they are.

    Five mixers at two batches, each `COPIES` times in one sweep, measured as any sweep is.
    """
    models = tuple(
        ModelSpec(f"unified_{stm}_micro") for stm in ("halo", "pvt", "swin", "convnext", "dcn_v3")
    )
    runs = tuple(RunSpec("onnxruntime", batch, available_threads()) for batch in (1, 8))
    spec = SweepSpec(models, runs, repeats=COPIES, explain=False)
    start = time.monotonic()
    rows = profile(spec, Place(folder / "copies"), Silent(), lambda _: None).rows
    held, widths = [], []
    for one, other in combinations(rows, 2):
        between = contrast_of(one, other)
        if between is None:
            continue
        ratio = between.ratio()
        if (one.model, one.batch) == (other.model, other.batch):
            held.append(ratio.low <= 1.0 <= ratio.high)
        elif one.batch == other.batch:
            widths.append(ratio.half_width_percent)
    print(
        f"copies: 1 is inside of {sum(held)} of {len(held)} ratios; ratios within a batch: median "
        f"half-width {statistics.median(widths):.2f} %, worst {max(widths):.2f} %; "
        f"{time.monotonic() - start:.0f} s, exports included"
    )


def loadgen(folder: Path) -> None:
    """LoadGen's single stream against our loop, and a rate that Server keeps."""
    onnx = export_model(ExportSpec(MODEL, "onnx", folder), Silent()).path
    threads = available_threads()

    def by_loadgen() -> float:
        run = RunSpec(
            "onnxruntime", 1, threads, scenario=ScenarioSpec("single-stream", duration_s=SECONDS)
        )
        result = our_process(onnx, run, folder / "logs").scenario
        assert result is not None
        assert result.latency_ms_p90 is not None
        return result.latency_ms_p90

    def by_our_loop() -> float:
        process = our_process(onnx, RunSpec("onnxruntime", 1, threads))
        return quantile(sorted(process.samples_ms), 0.9)

    compare("p90: ours / LoadGen SingleStream", by_our_loop, by_loadgen)
    limit_ms = 5 * by_our_loop()
    scenario = ScenarioSpec("server", duration_s=10.0, target_latency_ms=limit_ms)
    run = RunSpec("onnxruntime", 1, threads, scenario=scenario)
    result = our_process(onnx, run, folder / "logs").scenario
    assert result is not None
    print(json.dumps(result.model_dump(exclude={"logs"}), indent=1))


#: What the table of default sweeps is about.
CODE = ("benchmarks/measuring.py", "stmdeploy/measure", "stmdeploy/sweeps", "stmdeploy/spec/run.py")
SWEEP_COLUMNS = ("sweep", "measuring", "half-width, batch 1", "half-width, batch 8",
                 "from fastest to slowest, batch 1", "batch 8")  # fmt: skip


def sweeps(folder: Path) -> Evidence:
    """Five default sweeps, the third beside a process that loads one core half of the time."""
    rows = []
    for number in range(1, 6):
        out, loaded = folder / f"sweep{number}", number == 3
        load = multiprocessing.get_context("spawn").Process(target=load_one_core, daemon=True)
        if loaded:
            load.start()
        command = [sys.executable, "-m", "stmdeploy", "profile", "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        if loaded:
            load.terminate()
        rows.append(row_of_sweep(Store(out), f"{number}{', one core loaded' * loaded}"))
    return sweep_table(rows)


def sweep_table(rows: Sequence[Sequence[str]]) -> Evidence:
    """What `row_of_sweep` gave, as a table."""
    remark = "half-widths of the ratios of all pairs of a batch: median, worst"
    command = "python -m benchmarks.measuring sweeps"
    return evidence_of(command, CODE, SWEEP_COLUMNS, rows, remark)


def row_of_sweep(store: Store, name: str) -> tuple[str, ...]:
    """What a default sweep took, how wide its ratios are, how it ranks: *=* stands in a group."""
    rows = store.rows(store.find_sweep(None).id)
    cells = [name, f"{measuring_s(store, rows):.0f} s"]
    for batch in (1, 8):
        mine = [row for row in rows if row.batch == batch]
        found = [contrast_of(*pair) for pair in combinations(mine, 2)]
        widths = [one.ratio().half_width_percent for one in found if one is not None]
        cells.append(f"{statistics.median(widths):.1f} %, {max(widths):.1f} %")
    every = compared(rows)
    for batch in (1, 8):
        groups: dict[str, list[tuple[float, str]]] = {}
        for one in every:
            if rows[one.row].batch == batch:
                ratio = one.ratio.ratio if one.ratio else 1.0
                groups.setdefault(one.group, []).append((ratio, rows[one.row].stm))
        ordered = sorted(sorted(group) for group in groups.values())
        cells.append(", ".join(" = ".join(stm for _, stm in group) for group in ordered))
    return tuple(cells)


def measuring_s(store: Store, rows: Sequence[Row]) -> float:
    """Seconds from the last export to when the figures of the last row were made."""
    exported = max(path.stat().st_mtime for path in (store.folder / "artifacts").rglob("*.json"))
    return max(datetime.fromisoformat(row.started_utc).timestamp() for row in rows) - exported


PARTS: dict[str, Callable[[Path], Evidence | None]] = {
    part.__name__: part for part in (agreement, overhead, copies, loadgen, sweeps)
}


def main() -> None:
    """Runs the parts that are named, or all but the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help=", ".join(PARTS))
    saving(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.part or [part for part in PARTS if part != sweeps.__name__]:
            found = PARTS[name](Path(folder))
            if found is not None:
                print(found.markdown())
            if found is not None and options.save:
                keep("default-sweeps", found)


if __name__ == "__main__":
    main()
