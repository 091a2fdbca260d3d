"""Checks the check: false alarms and slowdowns found, while another process loads one core.

Run: python -m benchmarks.checking [--long] [--streams FILE] [--replay FILE] [--artifacts FOLDER].
The short form makes a few live checks; the long form, about an hour, makes 150 of equal models
(A/A), 50 of a model slowed by 10 % and 30 of one slowed by 2 %, with a threshold of 5 % and 20 s
a row, and then replays 5,000 decisions of each kind over the recorded streams. The slowed models
have real layers more. What is recorded goes to --streams, where a run that was ended goes on;
--replay judges it again. --artifacts keeps the models for the next run.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.slowed import slow_down
from stmdeploy.check.comparison import Comparison
from stmdeploy.check.side_by_side import Side, Wave, measure_wave
from stmdeploy.check.verdict import Spending, Verdict, judge, locate, pair_figure, paired_slowdown
from stmdeploy.hardware.machine import available_threads
from stmdeploy.measure.turns import Inference
from stmdeploy.plugins.progress import Silent
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.turns import TurnsJob
from tests.artifacts import export_model

MODELS = ("convnext", "pvt", "swin", "halo", "dcn_v3")
#: Kind of check: by how much the candidate is slower.
KINDS = {"A/A": 0.0, "+2 %": 0.02, "+10 %": 0.10}
LIVE = {False: {"A/A": 5, "+2 %": 2, "+10 %": 2}, True: {"A/A": 150, "+2 %": 30, "+10 %": 50}}
REPLAYED = {False: 500, True: 5000}
THRESHOLD_PERCENT, BUDGET_S = 5.0, 20.0
#: Layers that are added to learn what one costs, and waves that this is measured by.
TRIAL_LAYERS, TRIAL_WAVES = 40, 12
MEAN_PHASE_S = 0.3


@dataclass(frozen=True)
class RecordedWave:
    """A recorded wave: how long it took, and (duration, delay) of both sides of every pair."""

    seconds: float
    pairs: list[list[list[list[int]]]]

    def figures(self) -> list[float]:
        """The figure of every pair."""
        return [
            pair_figure(*([Inference(*one) for one in side] for side in pair))
            for pair in self.pairs
        ]


@dataclass(frozen=True)
class Check:
    """A live check as recorded."""

    kind: str
    model: str
    verdict: str
    low_percent: float
    high_percent: float
    waves: list[RecordedWave]

    @staticmethod
    def read(line: str) -> Check:
        """One line of a file of streams."""
        table = json.loads(line)
        return Check(**{**table, "waves": [RecordedWave(**wave) for wave in table["waves"]]})


def read_checks(streams: Path) -> list[Check]:
    """The checks in a file of streams."""
    return [Check.read(line) for line in streams.read_text("utf-8").splitlines()]


def load_one_core() -> None:
    """Keeps one core busy half of the time, in phases of random length, while its parent lives."""
    dice, parent = random.Random(1), os.getppid()
    while os.getppid() == parent:
        phase_s = dice.expovariate(1 / MEAN_PHASE_S)
        end = time.perf_counter() + phase_s
        while time.perf_counter() < end:
            pass
        time.sleep(phase_s)


def side(stm: str, artifact: Path) -> Side:
    """One side of a check."""
    run = RunSpec("onnxruntime", 1, available_threads())
    model = ModelSpec(f"unified_{stm}_micro")
    job = TurnsJob(artifact=artifact, model=model, run=run)
    return Side(job, artifact.stat().st_size)


def prepare(folder: Path, dice: random.Random) -> dict[tuple[str, str], Path]:
    """The artifacts of every model and kind; slowed by layers whose cost is measured first.

    A folder that has them already, from an earlier run, is used as it is.
    """
    listing = folder / "artifacts.json"
    if listing.is_file():
        listed = json.loads(listing.read_text("utf-8"))
        return {(stm, kind): folder / path for stm, kind, path in listed}
    artifacts = {}
    for stm in MODELS:
        spec = ExportSpec(ModelSpec(f"unified_{stm}_micro"), "onnx", folder / stm)
        plain = export_model(spec, Silent()).path
        trial = slow_down(plain, folder / stm / "trial", TRIAL_LAYERS)
        figures: list[float] = []
        for _ in range(TRIAL_WAVES):
            wave = measure_wave(side(stm, plain), side(stm, trial), 120, dice, Silent())
            figures += [
                pair_figure(p.baseline.inferences, p.candidate.inferences) for p in wave.pairs
            ]
        found = locate(figures)
        cost = found.mean / TRIAL_LAYERS
        for kind, slower in KINDS.items():
            layers = round(math.log1p(slower) / cost)
            artifacts[stm, kind] = (
                slow_down(plain, folder / stm / str(layers), layers) if layers else plain
            )
            print(f"{stm} {kind}: {layers} layers more, each {100 * cost:.3f} "
                  f"+- {100 * found.error / TRIAL_LAYERS:.3f} %", flush=True)  # fmt: skip
    listed = [(*key, str(path.relative_to(folder))) for key, path in artifacts.items()]
    listing.write_text(json.dumps(listed), "utf-8")
    return artifacts


def live(
    artifacts: dict[tuple[str, str], Path], counts: dict[str, int], streams: Path
) -> list[Check]:
    """Makes live checks in random order, each recorded as it ends.

    What a file of streams has already is not made again.
    """
    dice = random.Random(7)
    planned = [
        (kind, MODELS[i % len(MODELS)]) for kind, count in counts.items() for i in range(count)
    ]
    dice.shuffle(planned)
    checks = read_checks(streams) if streams.is_file() else []
    load = multiprocessing.get_context("spawn").Process(target=load_one_core, daemon=True)
    load.start()
    with streams.open("a") as file:
        for kind, stm in planned[len(checks) :]:
            check = check_once(artifacts, kind, stm, dice)
            checks.append(check)
            file.write(json.dumps(check, default=vars) + "\n")
            file.flush()
            print(f"{len(checks)} of {len(planned)}: {stm} {kind}: {check.verdict}, "
                  f"{check.low_percent:.1f} .. {check.high_percent:.1f} %, "
                  f"{sum(wave.seconds for wave in check.waves):.0f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
    load.terminate()
    return checks


def check_once(
    artifacts: dict[tuple[str, str], Path], kind: str, stm: str, dice: random.Random
) -> Check:
    """One live check of one row."""
    waves: list[RecordedWave] = []
    before, after = side(stm, artifacts[stm, "A/A"]), side(stm, artifacts[stm, kind])

    def measure() -> Wave:
        wave = measure_wave(before, after, 120, dice, Silent())
        recorded = [
            [
                [[one.duration_ns, one.delay_ns] for one in half.inferences]
                for half in (pair.baseline, pair.candidate)
            ]
            for pair in wave.pairs
        ]
        waves.append(RecordedWave(wave.measured_s, recorded))
        return wave

    comparison = Comparison(measure, paired_slowdown, THRESHOLD_PERCENT, BUDGET_S, Spending(1))
    while not comparison.finished:
        comparison.step()
    found = comparison.slowdown
    return Check(kind, stm, str(comparison.verdict), found.low_percent, found.high_percent, waves)


def replay(checks: list[Check], count: int) -> dict[str, Counter[str]]:
    """Decisions over waves drawn with replacement from those of the same model and kind.

    A wave is the block: within it, processes share the moment. The rule is the live one.
    """
    dice = random.Random(3)
    pools: dict[tuple[str, str], list[tuple[float, list[float]]]] = defaultdict(list)
    for check in checks:
        pools[check.kind, check.model] += [(wave.seconds, wave.figures()) for wave in check.waves]
    verdicts: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, stm in pools:
        share = count // sum(other == kind for other, _ in pools)
        verdicts[kind].update(replay_one(pools[kind, stm], dice) for _ in range(share))
    return verdicts


def replay_one(pool: list[tuple[float, list[float]]], dice: random.Random) -> str:
    """One decision, as `Comparison.step` takes it."""
    spending, figures, spent_s = Spending(1), list[list[float]](), 0.0
    while True:
        seconds, more = dice.choice(pool)
        figures.append(more)
        spent_s += seconds
        last = spent_s + spent_s / len(figures) / 2 > BUDGET_S
        level = spending.level(1.0 if last else spent_s / BUDGET_S)
        verdict = judge(paired_slowdown(figures, level), THRESHOLD_PERCENT)
        if last or verdict is not Verdict.CANNOT_TELL:
            return str(verdict)


def pooled_ns(check: Check, which: int) -> list[int]:
    """All inferences of one side of a check, as a plain loop would have them."""
    return [one[0] for wave in check.waves for pair in wave.pairs for one in pair[which]]


def pytest_benchmark_fails(field: str) -> Callable[[list[int], list[int]], bool]:
    """Its own compare-fail rule, as in ``--benchmark-compare-fail=FIELD:5%``."""
    stats_module: Any = import_module("pytest_benchmark.stats")
    utils: Any = import_module("pytest_benchmark.utils")

    rule = utils.parse_compare_fail(f"{field}:{THRESHOLD_PERCENT:g}%")

    def fails(before: list[int], after: list[int]) -> bool:
        summaries: list[Any] = []
        for side_ns in (before, after):
            stats = stats_module.Stats()
            for duration_ns in side_ns:
                stats.update(duration_ns / 1e9)
            summaries.append({field: getattr(stats, field)})
        return bool(rule.fails(summaries[1], summaries[0]))

    return fails


def rivals(checks: list[Check], count: int) -> dict[str, dict[str, float]]:
    """How often two separate runs of the same streams would have been called a regression.

    A run is one side of a check; the baseline's run and the candidate's are of different checks.
    """
    dice = random.Random(5)

    def by(statistic: Callable[[list[int]], float]) -> Callable[[list[int], list[int]], bool]:
        return lambda before, after: (
            statistic(after) > (1 + THRESHOLD_PERCENT / 100) * statistic(before)
        )

    rules: dict[str, Callable[[list[int], list[int]], bool]] = {
        "median of two runs": by(statistics.median),
        "mean of two runs": by(statistics.fmean),
        "minimum of two runs": by(min),
        "pytest-benchmark, min:5%": pytest_benchmark_fails("min"),
        "pytest-benchmark, mean:5%": pytest_benchmark_fails("mean"),
        "pytest-benchmark, median:5%": pytest_benchmark_fails("median"),
    }
    alarms: dict[str, dict[str, float]] = defaultdict(dict)
    baselines: dict[str, list[list[int]]] = defaultdict(list)
    for check in checks:
        baselines[check.model].append(pooled_ns(check, 0))
    for kind in KINDS:
        of_kind = [check for check in checks if check.kind == kind]
        drawn = [dice.choice(of_kind) for _ in range(count)]
        runs = [(dice.choice(baselines[c.model]), pooled_ns(c, 1)) for c in drawn]
        for name, rule in rules.items():
            alarms[name][kind] = sum(rule(before, after) for before, after in runs) / count
    return alarms


def upper_bound(hits: int, count: int) -> float:
    """The one-sided 95 % Clopper-Pearson bound of a share."""
    from scipy.stats import beta

    return 1.0 if hits >= count else float(beta.ppf(0.95, hits + 1, count - hits))


def print_tables(checks: list[Check], replayed: int) -> None:
    """Verdicts, live and replayed, and the rivals' alarms."""
    kinds = [kind for kind in KINDS if any(check.kind == kind for check in checks)]
    print(f"\nthreshold {THRESHOLD_PERCENT:g} %, {BUDGET_S:g} s a row, one core loaded half of the "
          f"time; models: {', '.join(MODELS)} micro, batch 1\n")  # fmt: skip
    for kind in kinds:
        mine = [check for check in checks if check.kind == kind]
        found = locate([f for check in mine for wave in check.waves for f in wave.figures()])
        alarms = sum(check.verdict == Verdict.REGRESSION for check in mine)
        seconds = statistics.median(sum(w.seconds for w in check.waves) for check in mine)
        print(f"live {kind}: {len(mine)} checks, {dict(Counter(c.verdict for c in mine))}; "
              f"regressions {100 * alarms / len(mine):.1f} % (95 % bound "
              f"{100 * upper_bound(alarms, len(mine)):.1f} %); median {seconds:.0f} s; slower by "
              f"{100 * math.expm1(found.mean):.2f} +- {100 * found.error:.2f} %")  # fmt: skip
    for kind, verdicts in replay(checks, replayed).items():
        total = sum(verdicts.values())
        alarms = verdicts[Verdict.REGRESSION]
        bound = upper_bound(alarms, total)
        print(f"replayed {kind}: {total} decisions, {dict(verdicts)}; regressions "
              f"{100 * alarms / total:.2f} % (95 % bound {100 * bound:.2f} %)")  # fmt: skip
    print(f"\n| called a regression | {' | '.join(kinds)} |\n| :--- |{' ---: |' * len(kinds)}")
    live_share = {
        kind: sum(c.verdict == Verdict.REGRESSION for c in checks if c.kind == kind)
        / sum(c.kind == kind for c in checks)
        for kind in kinds
    }
    rows = {"stmdeploy check": live_share, **rivals(checks, replayed)}
    for name, shares in rows.items():
        print(f"| {name} | " + " | ".join(f"{100 * shares[kind]:.1f} %" for kind in kinds) + " |")


def main() -> None:
    """Live checks, unless recorded ones are replayed; then the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--streams", type=Path)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--artifacts", type=Path)
    options = parser.parse_args()
    if options.replay:
        print_tables(read_checks(options.replay), REPLAYED[options.long])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifacts = prepare(options.artifacts or folder, random.Random(0))
        streams = options.streams or folder / "streams.jsonl"
        checks = live(artifacts, LIVE[options.long], streams)
    print_tables(checks, REPLAYED[options.long])


if __name__ == "__main__":
    main()
