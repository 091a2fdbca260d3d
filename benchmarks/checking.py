"""Checks the check: false alarms and slowdowns found, while another process loads one core.

Run: python -m benchmarks.checking [--long] [--streams FILE] [--replay FILE] [--artifacts FOLDER]
[--kind KIND ...] [--save].
The short form makes a few live checks; the long form, about an hour and a half, makes 150 of equal
models (A/A), 50 each of a model slowed by 10 and by 7 %, 30 of one slowed by 2 %, and 20 each of
candidates that disturb themselves (`benchmarks.fooling`), with a threshold of 5 % at the default
budget, and then replays 5,000 decisions of each kind over the recorded pairs. The slowed models
have real layers more. What is recorded goes to --streams, where a run that was ended goes on;
--replay judges it again. --artifacts keeps the models for the next run. --kind leaves out others.
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.evidence import evidence_of, keep, read, saving, this_machine, today
from benchmarks.fooling import FOOLS, interpreter
from benchmarks.slowed import slow_down
from stmdeploy.check.comparison import Comparison
from stmdeploy.check.gates import MeasuredGate
from stmdeploy.check.policy import RowPolicy
from stmdeploy.check.side_by_side import TURNS, TURNS_FOR_TAIL, Pair, Side, measure_pair
from stmdeploy.check.verdict import (
    ALPHA,
    OVERALL_SHARE,
    TYPICAL_SHARE,
    Figures,
    Prior,
    Spending,
    Verdict,
    can_decide,
    figures_of,
    judge_both,
    locate,
    paired_slowdown,
    prior_of,
)
from stmdeploy.hardware.machine import available_threads
from stmdeploy.measure.calm import Taken
from stmdeploy.plugins.progress import Silent
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.turns import TurnsJob
from tests.sharing import export_model

MODELS = ("convnext", "pvt", "swin", "halo", "dcn_v3")
#: Kind of check: by how much the candidate is slower, by more layers.
KINDS = {"A/A": 0.0, "+2 %": 0.02, "+7 %": 0.07, "+10 %": 0.10}
#: Kinds that are judged by a gate on the tail, too: growth allowed in per cent.
TAILS = {"A/A, tail": 20.0, "tail": 20.0}
LIVE = {
    False: {"A/A": 3, "+10 %": 2, "spins": 1, "tail": 1},
    True: {
        "A/A": 150, "+2 %": 30, "+7 %": 50, "+10 %": 50, "A/A, tail": 40,
        **dict.fromkeys(FOOLS, 20),
    },
}  # fmt: skip
#: What the table in the documentation calls them, which it has as the first cell of a row.
IN_WORDS = {
    "A/A": "equal",
    "A/A, tail": "equal, gate `tail = 20`",
    "+2 %": "slower by 2 %",
    "+7 %": "slower by 7 %",
    "+10 %": "slower by 10 %",
    "tail": "3 % of inferences take twice as long, gate `tail = 20`",
    "spins": "disturbs itself by a helper that spins half of the time",
    "crowds": "disturbs itself by four times as many threads as processors",
    "mostly slow": "eight in ten of its inferences take 40 % longer",
}
COLUMNS = ("candidate", "slower, over all pairs", "live checks", "called a regression", "no change",
           "cannot tell", "median time", "machine, day")  # fmt: skip
#: What the table is about.
CODE = ("benchmarks/checking.py", "benchmarks/fooling.py", "stmdeploy/check/comparison.py",
        "stmdeploy/check/gates.py", "stmdeploy/check/side_by_side.py", "stmdeploy/check/verdict.py",
        "stmdeploy/measure/calm.py", "stmdeploy/measure/turns.py")  # fmt: skip
REPLAYED = {False: 500, True: 5000}
THRESHOLD_PERCENT, BUDGET_S = 5.0, RowPolicy().budget_s
#: Layers that are added to learn what one costs, and pairs that this is measured by, and the prior.
TRIAL_LAYERS, TRIAL_PAIRS, PRIOR_PAIRS = 40, 24, 12
MEAN_PHASE_S = 0.3


@dataclass(frozen=True)
class RecordedPair:
    """A recorded pair: how long it took, and what both sides took of turns, in ns."""

    seconds: float
    sides: list[Taken]

    @staticmethod
    def read(table: dict[str, Any]) -> RecordedPair:
        """As it is written to a file."""
        return RecordedPair(table["seconds"], [Taken(**side) for side in table["sides"]])

    def figures(self) -> Figures:
        """What it says."""
        return figures_of(*self.sides)


@dataclass(frozen=True)
class Check:
    """A live check as recorded; ``alarm`` is a regression or a broken gate."""

    kind: str
    model: str
    verdict: str
    alarm: bool
    low_percent: float
    high_percent: float
    pairs: list[RecordedPair]

    @staticmethod
    def read(line: str) -> Check:
        """One line of a file of streams."""
        table = json.loads(line)
        return Check(**{**table, "pairs": list(map(RecordedPair.read, table["pairs"]))})

    @property
    def seconds(self) -> float:
        """How long it took."""
        return sum(pair.seconds for pair in self.pairs)


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


def side(stm: str, artifact: Path, python: str = "") -> Side:
    """One side of a check."""
    run = RunSpec("onnxruntime", 1, available_threads())
    model = ModelSpec(f"unified_{stm}_micro")
    return Side(TurnsJob(artifact=artifact, model=model, run=run), python)


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
        found = locate(figures_between(side(stm, plain), side(stm, trial), TRIAL_PAIRS, dice))
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


def figures_between(before: Side, after: Side, count: int, dice: random.Random) -> list[float]:
    """The typical figures of so many pairs."""
    pairs = [measure_pair(before, after, 120, dice, Silent()) for _ in range(count)]
    return [figures_of(pair.baseline.taken, pair.candidate.taken).typical for pair in pairs]


def live(
    artifacts: dict[tuple[str, str], Path], counts: dict[str, int], streams: Path
) -> list[Check]:
    """Makes live checks in random order, each recorded as it ends.

    Those that a file of streams has already, of each kind and model, are not made again.
    """
    dice = random.Random(7)
    planned = [
        (kind, MODELS[i % len(MODELS)]) for kind, count in counts.items() for i in range(count)
    ]
    dice.shuffle(planned)
    checks = read_checks(streams) if streams.is_file() else []
    done = Counter((check.kind, check.model) for check in checks)
    left = [key for number, key in enumerate(planned) if planned[:number].count(key) >= done[key]]
    total = len(checks) + len(left)
    load = multiprocessing.get_context("spawn").Process(target=load_one_core, daemon=True)
    load.start()
    priors: dict[str, Prior | None] = {}
    for stm in MODELS:  # as a baseline keeps it
        plain = side(stm, artifacts[stm, "A/A"])
        priors[stm] = prior_of(figures_between(plain, plain, PRIOR_PAIRS, dice))
    with streams.open("a") as file:
        for kind, stm in left:
            check = check_once(artifacts, kind, stm, priors[stm], dice)
            checks.append(check)
            file.write(json.dumps(asdict(check)) + "\n")
            file.flush()
            print(f"{len(checks)} of {total}: {stm} {kind}: {check.verdict}, "
                  f"{check.low_percent:.1f} .. {check.high_percent:.1f} %, "
                  f"{check.seconds:.0f} s, alarm: {check.alarm}",
                  file=sys.stderr, flush=True)  # fmt: skip
    load.terminate()
    return checks


def check_once(
    artifacts: dict[tuple[str, str], Path],
    kind: str,
    stm: str,
    prior: Prior | None,
    dice: random.Random,
) -> Check:
    """One live check of one row."""
    recorded: list[RecordedPair] = []
    plain = artifacts[stm, "A/A"]
    with interpreter(kind) as python:
        before, after = side(stm, plain), side(stm, artifacts.get((stm, kind), plain), python)

        turns = TURNS_FOR_TAIL if kind in TAILS else TURNS

        def measure() -> Pair:
            pair = measure_pair(before, after, 120, dice, Silent(), turns)
            sides = [pair.baseline.taken, pair.candidate.taken]
            recorded.append(RecordedPair(pair.measured_s, sides))
            return pair

        share = ALPHA / (1 + (kind in TAILS))
        gates = [MeasuredGate("tail", TAILS[kind], Spending(share))] if kind in TAILS else []
        comparison = Comparison(
            measure, paired_slowdown, THRESHOLD_PERCENT, BUDGET_S, Spending(share), prior, gates
        )
        while not comparison.finished:
            comparison.step()
    broken = [g for g in gates if g.growth_percent and g.growth_percent[1] > g.limit_percent]
    alarm = bool(broken) or comparison.verdict is Verdict.REGRESSION
    found = comparison.typical
    edges = found.low_percent, found.high_percent
    return Check(kind, stm, str(comparison.verdict), alarm, *edges, recorded)


def replay(checks: list[Check], count: int) -> dict[str, Counter[str]]:
    """Decisions over pairs drawn with replacement from those of the same model and kind, by the
    live rule. What they re-sample is no more than what was recorded."""
    dice = random.Random(3)
    pools: dict[tuple[str, str], list[tuple[float, Figures]]] = defaultdict(list)
    for check in checks:
        if check.kind in KINDS:
            pools[check.kind, check.model] += [(p.seconds, p.figures()) for p in check.pairs]
    verdicts: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, stm in pools:
        share = count // sum(other == kind for other, _ in pools)
        equal = [figures.typical for _, figures in pools.get(("A/A", stm), ())]
        verdicts[kind].update(
            replay_one(pools[kind, stm], prior_of(dice.choices(equal, k=PRIOR_PAIRS)), dice)
            for _ in range(share if equal else 0)
        )
    return verdicts


def replay_one(pool: list[tuple[float, Figures]], prior: Prior | None, dice: random.Random) -> str:
    """One decision, as `Comparison.step` takes it."""
    spending, figures, spent_s = Spending(ALPHA), list[Figures](), 0.0
    while True:
        seconds, more = dice.choice(pool)
        figures.append(more)
        spent_s += seconds
        last = spent_s + spent_s / len(figures) / 2 > BUDGET_S
        level = spending.level(last=last)
        typical = paired_slowdown([one.typical for one in figures], TYPICAL_SHARE * level, prior)
        verdict = Verdict.CANNOT_TELL
        if last or can_decide(typical, THRESHOLD_PERCENT):
            spending.take()
            overall = paired_slowdown([one.overall for one in figures], OVERALL_SHARE * level, None)
            verdict = judge_both(typical, overall, THRESHOLD_PERCENT)
        if last or verdict is not Verdict.CANNOT_TELL:
            return str(verdict)


def pooled_ns(check: Check, which: int) -> list[int]:
    """All inferences of one side of a check, as a plain loop would have them."""
    return [round(ns) for p in check.pairs for turn in p.sides[which].durations for ns in turn]


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
        if not of_kind:
            continue
        drawn = [dice.choice(of_kind) for _ in range(count)]
        runs = [(dice.choice(baselines[c.model]), pooled_ns(c, 1)) for c in drawn]
        for name, rule in rules.items():
            alarms[name][kind] = sum(rule(before, after) for before, after in runs) / count
    return alarms


def upper_bound(hits: int, count: int) -> float:
    """The one-sided 95 % Clopper-Pearson bound of a share."""
    from scipy.stats import beta

    return 1.0 if hits >= count else float(beta.ppf(0.95, hits + 1, count - hits))


def lower_bound(hits: int, count: int) -> float:
    """The other one."""
    return 1.0 - upper_bound(count - hits, count)


def print_tables(checks: list[Check], replayed: int) -> None:
    """Verdicts, live and replayed, and the rivals' alarms."""
    kinds = list(dict.fromkeys(check.kind for check in checks))
    print(f"\nthreshold {THRESHOLD_PERCENT:g} %, {BUDGET_S:g} s a row, one core loaded half of the "
          f"time; models: {', '.join(MODELS)} micro, batch 1\n")  # fmt: skip
    for kind in kinds:
        mine = [check for check in checks if check.kind == kind]
        figures = [pair.figures() for check in mine for pair in check.pairs]
        typical = locate([one.typical for one in figures])
        alarms = sum(check.alarm for check in mine)
        seconds = statistics.median(check.seconds for check in mine)
        low, high = (bound(alarms, len(mine)) for bound in (lower_bound, upper_bound))
        print(f"live {kind}: {len(mine)} checks, {dict(Counter(c.verdict for c in mine))}; alarms "
              f"{alarms}, {100 * alarms / len(mine):.1f} % (95 % bounds {100 * low:.1f} and "
              f"{100 * high:.1f} %); median {seconds:.1f} s; slower by "
              f"{100 * math.expm1(typical.mean):.2f} +- {100 * typical.error:.2f} %")  # fmt: skip
    for kind, verdicts in replay(checks, replayed).items():
        total = sum(verdicts.values())
        alarms = verdicts[Verdict.REGRESSION]
        bound = upper_bound(alarms, total)
        print(f"replayed {kind}: {total} decisions, {dict(verdicts)}; regressions "
              f"{100 * alarms / total:.2f} % (95 % bound {100 * bound:.2f} %)")  # fmt: skip
    kinds = [kind for kind in kinds if kind in KINDS]
    if not kinds:
        return
    print(f"\n| called a regression | {' | '.join(kinds)} |\n| :--- |{' ---: |' * len(kinds)}")
    live_share = {
        kind: statistics.fmean(check.alarm for check in checks if check.kind == kind)
        for kind in kinds
    }
    rows = {"stmdeploy check": live_share, **rivals(checks, replayed)}
    for name, shares in rows.items():
        print(f"| {name} | " + " | ".join(f"{100 * shares[kind]:.1f} %" for kind in kinds) + " |")


def row_of(kind: str, checks: Sequence[Check]) -> tuple[str, ...]:
    """A row of the table in the documentation."""
    verdicts = Counter(check.verdict for check in checks)
    found = locate([pair.figures().typical for check in checks for pair in check.pairs])
    alarms, count = sum(check.alarm for check in checks), len(checks)
    bound = (
        f"at most {100 * upper_bound(alarms, count):.1f} %" if kind.startswith("A/A")
        else f"at least {100 * lower_bound(alarms, count):.0f} %"
    )  # fmt: skip
    return (
        IN_WORDS[kind],
        f"{100 * math.expm1(found.mean):.2f} ± {100 * found.error:.2f} %",
        str(count),
        f"{alarms} ({bound})",
        str(verdicts[Verdict.NO_CHANGE]),
        str(verdicts[Verdict.CANNOT_TELL]),
        f"{statistics.median(check.seconds for check in checks):.1f} s",
        f"{this_machine()}, {today()}",
    )


def keep_rows(checks: Sequence[Check]) -> None:
    """Puts a row for every kind of live check into the table, in the place of an earlier one."""
    rows = {row[0]: row for row in read("checking").rows}
    for kind in dict.fromkeys(check.kind for check in checks):
        mine = [check for check in checks if check.kind == kind]
        rows[IN_WORDS[kind]] = row_of(kind, mine)
    ordered = [rows[words] for words in IN_WORDS.values() if words in rows]
    remark = (
        "threshold 5 %, 60 s a row, one core loaded half of the time, five micro backbones; each "
        "row by the code of its day"
    )
    command = "python -m benchmarks.checking --long"
    found = evidence_of(command, CODE, COLUMNS, ordered, remark)
    keep("checking", found.model_copy(update={"machine": "as in the table"}))


def main() -> None:
    """Live checks, unless recorded ones are replayed; then the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--streams", type=Path)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--kind", action="append", help="only these; may be repeated")
    saving(parser)
    options = parser.parse_args()
    if options.replay:
        print_tables(read_checks(options.replay), REPLAYED[options.long])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifacts = prepare(options.artifacts or folder, random.Random(0))
        streams = options.streams or folder / "streams.jsonl"
        counts = LIVE[options.long]
        counts = {kind: counts[kind] for kind in options.kind or counts}
        checks = live(artifacts, counts, streams)
    if options.save:
        keep_rows([check for check in checks if check.kind in counts])
    print_tables(checks, REPLAYED[options.long])


if __name__ == "__main__":
    main()
