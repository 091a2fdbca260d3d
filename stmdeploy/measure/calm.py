"""Which inferences others left alone, told by how long a process waits for processors.

Where another program takes one of the processors for a while, an inference takes two or three times
as long, and turns of two rows fall into such times by chance. So a comparison looks at the *calm*
inferences: those during which the process's threads, all together, hardly waited for a processor.

A model can make its threads wait by itself: with more threads than there are processors, or with a
helper that spins. That is its own cost, and must not be left out. What others use (what all
processors work, less what the process does with all its threads) tells the two apart: who waits for
longer than others work waits for itself, and then all of its inferences count, each turn by their
mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import IO, TypeVar

from stmdeploy.measure.contrasts import Turns

T = TypeVar("T")

#: An inference is calm if its threads waited for at most this share of it.
_CALM_SHARE = 0.03
#: Where few are, so many are taken that waited least, and at least this share.
_FEWEST_CALM, _LEAST_SHARE = 3, 0.1
#: A process may wait for so many times what others work, and this share of the time beside it.
_WAIT_PER_WORK, _WAIT_SHARE = 1.25, 0.03


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


@dataclass(frozen=True)
class Taken:
    """The turns that a process took, all in one unit of time.

    Attributes:
        durations: of every inference, turn by turn.
        waited: for how long the process's threads waited for a processor in each of them, all
            together; empty if that is not known.
        others: for how long others worked meanwhile, all processors together.
    """

    durations: Turns
    waited: Turns = ()
    others: float = 0.0

    @cached_property
    def waits_for_itself(self) -> bool:
        """Whether its threads waited for longer than other programs can explain."""
        watched, waited = (sum(chain.from_iterable(one)) for one in (self.durations, self.waited))
        return waited > _WAIT_PER_WORK * self.others + _WAIT_SHARE * watched

    @cached_property
    def calm(self) -> Turns:
        """The durations of its calm inferences, turn by turn; a turn may have none. Where there are
        hardly any, those that waited least."""
        if not self.waited:
            return self.durations
        turns = [
            list(zip(*turn, strict=True)) for turn in zip(self.durations, self.waited, strict=True)
        ]
        shares = sorted(waited / duration for turn in turns for duration, waited in turn)
        fewest = max(_FEWEST_CALM, round(_LEAST_SHARE * len(shares)))
        most = max(_CALM_SHARE, shares[min(fewest, len(shares)) - 1])
        return [
            [duration for duration, waited in turn if waited <= most * duration] for turn in turns
        ]


def comparable(one: Taken, other: Taken) -> tuple[Turns, Turns]:
    """The inferences of two processes that may be compared, turn by turn: the calm ones of both;
    or all of both, if either waits for itself."""
    if one.waits_for_itself or other.waits_for_itself:
        return one.durations, other.durations
    return one.calm, other.calm


def compared(one: Taken, other: Taken) -> tuple[Turns, Turns]:
    """The turns of two processes as their difference is taken of them.

    Where either waits for itself, it slows down some of its inferences, and which ones is chance:
    none is typical, and a turn is as long as its inferences are on average.
    """
    if one.waits_for_itself or other.waits_for_itself:
        return _by_means(one.durations), _by_means(other.durations)
    return one.calm, other.calm


def _by_means(turns: Turns) -> Turns:
    return [[fmean(turn)] for turn in turns]
