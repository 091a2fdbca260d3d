"""Which inferences others left alone, told by how long a process waits for processors.

Where another program takes one of the processors for a while, an inference takes two or three times
as long, and turns of two rows fall into such times by chance. So a comparison looks at the *calm*
inferences: those during which the process's threads, all together, hardly waited for a processor.

A model can make its threads wait by itself: with more threads than there are processors, or with a
helper that spins. That is its own cost, and must not be left out. What others use (what all
processors work, less what the process does with all its threads) tells the two apart: who waits for
longer than others work waits for itself, and then all of its inferences count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, TypeVar

from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.spec.units import MS_PER_S

T = TypeVar("T")

#: An inference is calm if its threads waited for at most this share of it.
_CALM_SHARE = 0.03
#: Where few are, so many are taken that waited least, and at least this share.
_FEWEST_CALM, _LEAST_SHARE = 3, 0.1
#: A process may wait for so many times what others work, and this share of the time beside it.
_WAIT_PER_WORK, _WAIT_SHARE = 1.5, 0.02


@contextmanager
def run_delay() -> Iterator[Callable[[], int]]:
    """A function that tells for how many nanoseconds the threads that this process has now have
    waited for a processor while ready to run, all together, as Linux counts it in
    ``/proc/self/task/*/schedstat``; always 0 on other systems."""
    with ExitStack() as stack:
        files: list[IO[bytes]] = []
        with suppress(OSError):
            for task in Path("/proc/self/task").iterdir():
                with suppress(OSError):
                    file = (task / "schedstat").open("rb", buffering=0)
                    files.append(stack.enter_context(file))

        def waited_ns() -> int:
            total = 0
            for file in files:
                with suppress(OSError, IndexError, ValueError):
                    file.seek(0)
                    total += int(file.read().split()[1])
            return total

        yield waited_ns


@dataclass
class OthersUse:
    """How many processors others keep busy while this process runs: what all of them work, less
    what this process does with all its threads.

    Attributes:
        busy_s: seconds that all processors have worked so far.
        own_s: seconds that this process has, with all its threads.
        now_s: a clock, in seconds.
        others_s, watched_s: what others did so far while this was watched, and for how long.
    """

    busy_s: Callable[[], float]
    own_s: Callable[[], float] = time.process_time
    now_s: Callable[[], float] = time.monotonic
    others_s: float = 0.0
    watched_s: float = 0.0

    def watched(self, work: Callable[[], T]) -> T:
        """Does some work, and adds what others did meanwhile."""
        before = self.busy_s(), self.own_s(), self.now_s()
        done = work()
        self.others_s += self.busy_s() - before[0] - (self.own_s() - before[1])
        self.watched_s += self.now_s() - before[2]
        return done

    @property
    def processors(self) -> float:
        """On average; the system counts in hundredths of a second, so it takes a few turns."""
        return max(0.0, self.others_s / self.watched_s) if self.watched_s else 0.0


def is_calm(waited: float, duration: float) -> bool:
    """Whether an inference waited so little that nothing disturbed it; both in any one unit."""
    return waited <= _CALM_SHARE * duration


def calm_turns(process: ProcessRun) -> list[list[float]]:
    """The samples of a process that count in comparisons, turn by turn; a turn may have none."""
    edges = list(pairwise(accumulate(process.turns, initial=0)))
    kept = _calm(process)
    return [[process.samples_ms[i] for i in range(a, b) if i in kept] for a, b in edges]


def _calm(process: ProcessRun) -> frozenset[int]:
    """The places of samples that count."""
    samples, waited = process.samples_ms, process.waited_ms
    everything = frozenset(range(len(samples)))
    if not waited or waits_for_itself(process):
        return everything
    calm = [i for i, pair in enumerate(zip(waited, samples, strict=True)) if is_calm(*pair)]
    fewest = max(_FEWEST_CALM, round(_LEAST_SHARE * len(samples)))
    if len(calm) < fewest:
        calm = sorted(everything, key=lambda i: waited[i] / samples[i])[:fewest]
    return frozenset(calm)


def waits_for_itself(process: ProcessRun) -> bool:
    """Whether a process's threads waited for longer than other programs can explain."""
    watched_s = sum(process.samples_ms) / MS_PER_S
    allowed_s = _WAIT_PER_WORK * process.others_s + _WAIT_SHARE * watched_s
    return sum(process.waited_ms) / MS_PER_S > allowed_s
