"""Sweeps of simulated machines at length, through the functions that measure real ones.

Run: python -m benchmarks.simulated [--sweeps 2000] [--save]; a few minutes. Of every situation of
`tests/measure/machines.py`: how often the intervals of ratios and of latencies hold the truth, and
how wide those of the ratios are.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from statistics import fmean, median

from benchmarks.evidence import evidence_of, keep, saving
from stmdeploy.hardware.machine import available_threads
from stmdeploy.spec.run import SamplingSpec
from tests.fakes import a_process
from tests.measure.machines import SITUATIONS
from tests.measure.test_simulated import outcome

#: What the table in the documentation calls the situations.
IN_WORDS = {
    "quiet": "quiet",
    "shared": "shared: slow spells for 15 % of the time",
    "busy": "busy: longer ones for 35 %",
    "disturbed processes": "5 % of the processes slower by 10 .. 30 %",
    "two modes": "every fifth process slower by 6 %",
    "drift": "slower by 25 % at the end",
    "autocorrelated": "each inference much like the one before",
    "spells of single rows": "slow spells of single rows",
}
COLUMNS = ("simulated machine", "ratios: truth inside", "half-width, median", "latency, no `~`",
           "with `~`")  # fmt: skip
#: What the table is about.
CODE = ("stmdeploy/measure/contrasts.py", "stmdeploy/measure/statistics.py",
        "stmdeploy/measure/summary.py", "stmdeploy/spec/run.py", "tests/measure/machines.py",
        "tests/measure/test_simulated.py")  # fmt: skip


def row_of(name: str, sweeps: int) -> tuple[str, ...]:
    """What came of a situation."""
    found = outcome(SITUATIONS[name], sweeps, a_process)
    steady, marked = (_share(found.latencies[mark]) for mark in (False, True))
    widths = f"{median(found.ratio_half_widths):.1f} %"
    return IN_WORDS[name], _share(found.ratios), widths, steady, marked


def _share(held: Sequence[bool]) -> str:
    return f"{100 * fmean(held):.1f} %" if held else "-"


def main() -> None:
    """Every situation, as many at once as there are processors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=2000)
    saving(parser)
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(available_threads()) as pool:
        rows = pool.starmap(row_of, [(name, options.sweeps) for name in SITUATIONS], chunksize=1)
    sampling = SamplingSpec()
    remark = (
        f"{options.sweeps} sweeps of five rows each, {sampling.processes} waves of "
        f"{sampling.turns} turns"
    )
    found = evidence_of("python -m benchmarks.simulated", CODE, COLUMNS, rows, remark)
    found = found.model_copy(update={"machine": "simulated"})
    print(found.markdown())
    if options.save:
        keep("simulated-sweeps", found)


if __name__ == "__main__":
    main()
