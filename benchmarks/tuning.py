"""What `tune` finds, and how sure it is.

Run: python -m benchmarks.tuning [--stm halo,pvt,swin,convnext,dcn] [--scale micro] [--batch 1,8]
[--max-error 0.02] [--folder FOLDER], which races every mixer at every batch, and tells the winner
beside the model as torch.onnx gives it, in ONNX Runtime; first exact, then within the limit.

Or: python -m benchmarks.tuning --digits [--save], which first has every backbone learn
scikit-learn's digits, for with synthetic weights classes are near each other; then races within the
promise that at least 99 % of the digits that it has not seen keep their class.

Or: python -m benchmarks.tuning --exhaustive 30 --races 20 --stm pvt --folder FOLDER, which first
runs so many waves of everything that a race could run, without dropping anybody; then races,
live; and tells how far each winner is from the best of the exhaustive sweep, and what either took.

What was run is kept in FOLDER, and not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.evidence import saving, table
from stmdeploy.hardware.machine import available_threads, processor_name
from stmdeploy.measure.racing import Race
from stmdeploy.plugins.progress import Progress, Silent
from stmdeploy.schema.tuned import Tuned
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.fidelity import FidelityLimits
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.tuning import TuneSpec
from stmdeploy.tuning.candidates import artifacts, usual, variants
from stmdeploy.tuning.tune import Tuning, tune
from tests.digits import CLASSES, train, write_digits

STMS = ("halo", "pvt", "swin", "convnext", "dcn_v3")
#: Digits that are learned, and the share in per cent of the others that must keep their class.
TRAINED, AGREEMENT = 600, 99.0
COLUMNS = ("micro", "winner", "x torch.onnx", "agrees on %", "at least %")
CODE = ("benchmarks/tuning.py", "stmdeploy/tuning", "stmdeploy/measure/racing.py",
        "stmdeploy/backbones/lowering")  # fmt: skip


def spec_of(
    stm: str, options: argparse.Namespace, batch: int, folder: Path, error: float | None
) -> TuneSpec:
    """A race of one backbone with the defaults of the command line."""
    every = available_threads()
    return TuneSpec(
        ModelSpec(f"unified_{stm}_{options.scale}"),
        (RunSpec("onnxruntime", batch, every),),
        folder,
        tuple(filter(None, options.runtime.split(","))),
        threads=tuple(dict.fromkeys((every, max(1, every // 2)))),
        limits=FidelityLimits(max_error=error),
        held_out=300,
    )


def line(found: Tuned, what: str) -> str:
    """The winner in words."""
    best = found.named(found.best)
    ratios = {ratio.of: ratio for ratio in best.ratios}
    over = [
        f"{1 / ratio.ratio:.2f} ({1 / ratio.high:.2f} .. {1 / ratio.low:.2f})" if ratio else "1"
        for ratio in map(ratios.get, (found.reference, found.usual))
    ]
    kept = ""
    if best.limits is not None:
        test = best.limits
        kept = (
            f" (error {test.kept.relative_l2_error:.1e}, at most {test.error_bound:.1e}; agrees on "
            f"{test.kept.agreement_percent:.1f} % of {test.images} images)"
        )
    equal = sum(one.state == "as good" for one in found.candidates)
    return (
        f"{found.model}, batch {best.batch}, {what}: {best.runtime} {best.precision} "
        f"{best.lowering} {best.settings or ''}, {best.threads} threads{kept}: {over[0]} times the "
        f"reference form in ONNX Runtime, {over[1]} times the usual; {equal} as good; "
        f"{len(found.candidates)} candidates, {found.waves} waves, {found.measured_s:.0f} s, "
        f"exports {found.exported_s:.0f} s; surely within "
        f"{math.inf if found.within_percent is None else found.within_percent:.1f} %"
    )


def races(options: argparse.Namespace, folder: Path) -> None:
    """Every mixer at every batch, exact and within a limit."""
    every: list[Tuned] = []

    def one(spec: TuneSpec, what: str) -> None:
        every.append(tune(spec, Silent()))
        print(line(every[-1], what), flush=True)

    for stm in options.stm.split(","):
        for batch in map(int, options.batch.split(",")):
            one(spec_of(stm, options, batch, folder, None), "exact")
            if options.max_error:
                told = f"error at most {options.max_error:g}"
                one(spec_of(stm, options, batch, folder, options.max_error), told)
    if options.json:
        table = {"tuned": [_elsewhere(found).model_dump(mode="json") for found in every]}
        options.json.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def _elsewhere(found: Tuned) -> Tuned:
    """Without the folders of this machine."""
    named = [
        one.model_copy(update={"artifact": Path(one.artifact).name}) for one in found.candidates
    ]
    return found.model_copy(update={"candidates": tuple(named)})


def learned(options: argparse.Namespace, folder: Path) -> None:
    """Every mixer that has learned digits, in float32 and bf16, within a promise of agreement."""
    seen, unseen = folder / "train", folder / "test"
    if not unseen.is_dir():
        write_digits(seen, slice(0, TRAINED))
        write_digits(unseen, slice(TRAINED, None))
    remark = (
        f"batch 1, fp32 and bf16 race; backbones that learned {TRAINED} of scikit-learn's digits "
        "at 224 px; the bound is one-sided and holds for all of a race together with 95 %"
    )
    command = f"python -m benchmarks.tuning --digits --stm {options.stm}"
    command += f" --runtime {options.runtime}" if options.runtime else ""
    with table("tune-digits", command, CODE, COLUMNS, remark, save=options.save) as add:
        for stm in options.stm.split(","):
            weights = folder / f"{stm}.pth"
            if not weights.is_file():
                train(seen, weights, stm, options.scale, 224, steps=60, batch=16)
            spec = spec_of(stm, options, 1, folder, None)
            found = tune(
                replace(
                    spec,
                    model=replace(spec.model, num_classes=CLASSES, checkpoint=str(weights)),
                    precisions=("fp32", "bf16"),
                    limits=FidelityLimits(min_agreement_percent=AGREEMENT),
                    data=DataSpec(unseen),
                    held_out=1200,
                ),
                Silent(),
            )
            print(line(found, f"agreement at least {AGREEMENT:g} %"), flush=True)
            best = found.named(found.best)
            over = {one.of: one for one in best.ratios}[found.reference]
            told = best.limits
            add(
                found.model,
                f"{best.runtime}, {best.precision}, {best.lowering}",
                f"{1 / over.ratio:.2f} ({1 / over.high:.2f} .. {1 / over.low:.2f})",
                f"{told.kept.agreement_percent:.2f} of {told.images}" if told else "exact",
                f"{told.agreement_bound_percent:.2f}" if told else "exact",
            )


class Exhaustive(Tuning):
    """All that a race could run, and nobody is dropped."""

    def __init__(self, spec: TuneSpec, progress: Progress) -> None:
        super().__init__(spec, progress)
        first = list(dict.fromkeys((self._usual, self._reference, *artifacts(spec))))
        self.enter(first)
        self.enter([variant for one in first for variant in variants(spec, one)])

    def waves(self, count: int) -> Iterator[dict[tuple[str, str], float]]:
        """The differences of so many waves."""
        for number in range(1, count + 1):
            yield self.play(number)
            print(f"wave {number} of {count}, {self.measured_s:.0f} s", flush=True)


def against_exhaustive(options: argparse.Namespace, folder: Path) -> None:
    """Races against everything at length."""
    for stm in options.stm.split(","):
        for batch in map(int, options.batch.split(",")):
            spec = spec_of(stm, options, batch, folder, None)
            long = replace(spec, race=replace(spec.race, process_budget_s=1.0))
            every, truth = Exhaustive(long, Silent()), Race(0.05, usual(spec).name)
            names: dict[str, None] = {}
            for differences in every.waves(options.exhaustive):
                truth.add(differences)
                names |= dict.fromkeys(name for pair in differences for name in pair)
            truth.enter(names)
            costs = {name: truth.ratio(name, usual(spec).name) for name in names}
            best = min(r.ratio for r in costs.values() if r)
            spent = every.measured_s
            behind, took = [], []
            for seed in range(1, options.races + 1):
                found = tune(replace(spec, seed=seed), Silent())
                cost = costs[found.best]
                assert cost is not None
                behind.append(cost.ratio / best - 1)
                took.append(found.measured_s)
                print(f"race {seed}: {found.best}, {100 * behind[-1]:.1f} % behind the best of the "
                      f"exhaustive sweep, {took[-1]:.0f} s", flush=True)  # fmt: skip
            near = sum(one <= 0.02 for one in behind)
            print(f"{stm}, batch {batch}: {near} of {len(behind)} races within 2 % of the best of "
                  f"{len(names)} configurations ({options.exhaustive} waves, {spent:.0f} s); one "
                  f"takes {statistics.median(took):.0f} s (median), "
                  f"{100 * statistics.median(took) / spent:.0f} % of that", flush=True)  # fmt: skip


def main() -> None:
    """As above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stm", default=",".join(STMS))
    parser.add_argument("--scale", default="micro")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--max-error", type=float, default=0.02)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path, help="write what was found into this file, too")
    parser.add_argument("--runtime", default="", help="by default all that are installed")
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--exhaustive", type=int, default=0)
    parser.add_argument("--races", type=int, default=20)
    saving(parser)
    options = parser.parse_args()
    print(processor_name())
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        if options.digits:
            learned(options, folder)
        else:
            (against_exhaustive if options.exhaustive else races)(options, folder)


if __name__ == "__main__":
    main()
