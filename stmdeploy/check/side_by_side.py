"""Two artifacts measured side by side: pairs of fresh processes that take turns.

Both processes of a pair are loaded and alive at once, and exactly one of them runs; the other waits
for its turn without using a processor. So both see the machine over the same time, and what
disturbs it falls on both sides alike. Every pair is of fresh processes, so pairs are independent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.measure.calm import Taken
from stmdeploy.measure.sampling import Turn
from stmdeploy.measure.turns import from_words
from stmdeploy.plugins.progress import Progress
from stmdeploy.schema.measurement import TurnsRun
from stmdeploy.worker.client import worker_settings
from stmdeploy.worker.jobs.turns import TurnsJob
from stmdeploy.worker.lock import machine_lock
from stmdeploy.worker.player import Player

#: Turns that either process of a pair takes; and where its tail is judged, which takes many
#: inferences, rather than many processes.
TURNS, TURNS_FOR_TAIL = 8, 32


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its job, and its interpreter (empty for this one)."""

    job: TurnsJob
    python: str = ""


@dataclass(frozen=True)
class Half:
    """What one process of a pair measured, turn by turn, and what it reported at its end."""

    turns: tuple[Turn, ...]
    run: TurnsRun

    @property
    def durations_ns(self) -> tuple[int, ...]:
        """Of all its inferences."""
        return tuple(chain.from_iterable(turn.durations_ns for turn in self.turns))

    @property
    def taken(self) -> Taken:
        """Its turns in nanoseconds, and what others did meanwhile."""
        durations, waited = ([turn.durations_ns for turn in self.turns],
                             [turn.waited_ns for turn in self.turns])  # fmt: skip
        return Taken(durations, waited, self.run.others_processors * sum(self.durations_ns))


@dataclass(frozen=True)
class Pair:
    """A process of the baseline and one of the candidate, which took turns; and how long that took
    in seconds, not counting the wait for the lock."""

    baseline: Half
    candidate: Half
    measured_s: float


class SideFailedError(StmdeployError):
    """A worker of one side died, hung or could not load its artifact (exit code 5), or its outputs
    are not the model's (exit code 4)."""

    def __init__(self, side: str, error: StmdeployError) -> None:
        differ = error.code is ExitCode.OUTPUTS_DIFFER
        code = ExitCode.OUTPUTS_DIFFER if differ else ExitCode.WORKER_FAILED
        super().__init__(f"{side}: {error.message}", error.hint, code, error.kind)


@dataclass
class _Player:
    """A side's worker, and the turns that it has taken so far."""

    name: str
    player: Player[TurnsRun]
    turns: list[Turn] = field(default_factory=list)

    def take_turn(self) -> None:
        """One turn; raises SideFailedError if it says why it cannot, or nothing more, or something
        that only another version understands."""
        with self._named():
            told = self.player.take_turn()
            try:
                self.turns.append(from_words(told))
            except ValueError:
                raise StmdeployError(
                    "its stmdeploy is another version than this one",
                    "install the same version beside either runtime",
                    ExitCode.WORKER_FAILED,
                ) from None

    def listen(self) -> None:
        """Waits until it is ready; raises as `take_turn`."""
        with self._named():
            self.player.listen()

    def end(self) -> Half:
        """Lets it go; what it measured. Raises as `take_turn`."""
        with self._named():
            return Half(tuple(self.turns), self.player.end())

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except StmdeployError as error:
            raise SideFailedError(self.name, error) from error


def measure_pair(
    baseline: Side,
    candidate: Side,
    timeout_s: float,
    dice: random.Random,
    progress: Progress,
    turns: int = TURNS,
) -> Pair:
    """Measures one pair.

    Args:
        timeout_s: a process that takes longer to load, for a turn or to end is ended.
        dice: draws which side begins, in every cycle of turns anew.
        progress: told when something else is being measured on this machine.
        turns: how many either side takes.

    Raises:
        SideFailedError: a worker of either side failed; the pair is lost.
    """
    with machine_lock(progress), ExitStack() as stack:
        start = time.monotonic()
        before = _start(stack, "baseline", baseline, timeout_s)
        after = _start(stack, "candidate", candidate, timeout_s)
        for player in (before, after):
            player.listen()
        for _ in range(turns):
            for player in dice.sample((before, after), 2):
                player.take_turn()
        halves = before.end(), after.end()
        return Pair(*halves, time.monotonic() - start)


def _start(stack: ExitStack, name: str, side: Side, timeout_s: float) -> _Player:
    settings = worker_settings(side.job.run)
    try:
        player = Player(side.job, settings, timeout_s, side.python)
    except StmdeployError as error:
        raise SideFailedError(name, error) from error
    return _Player(name, stack.enter_context(player))
