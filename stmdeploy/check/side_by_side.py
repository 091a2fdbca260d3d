"""Two artifacts measured side by side: pairs of fresh processes that take turns.

Several pairs are alive at once, and of all their processes exactly one runs at a time; the
others wait for their turn without using a processor. So every process sees the machine over the
whole time of its wave, and what disturbs the machine falls on both sides alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from stmdeploy.check.verdict import pair_figure
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.hardware.machine import memory_available_mib
from stmdeploy.measure.turns import Inference, from_words
from stmdeploy.plugins.progress import Progress
from stmdeploy.schema.measurement import TurnsRun
from stmdeploy.worker.client import worker_settings
from stmdeploy.worker.jobs.turns import TurnsJob
from stmdeploy.worker.lock import machine_lock
from stmdeploy.worker.player import Player

#: Turns that every process takes, ...
_TURNS = 2
#: ... and at most, while one of them has fewer calm inferences than this.
_MOST_TURNS, _WANTED_CALM = 4, 6
#: Pairs alive at once, by device; fewer on a GPU, whose memory each of them holds.
PAIRS_AT_ONCE = {"cpu": 3, "cuda": 1}
#: Estimated memory of a process: this, and so many times the size of its artifact.
_PROCESS_MIB, _ARTIFACT_TIMES = 200.0, 4.0
#: Share of the free memory that all processes together may take.
_MEMORY_SHARE = 0.6


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its job, the size of its artifact, and its interpreter (empty for
    this one)."""

    job: TurnsJob
    artifact_bytes: int
    python: str = ""


@dataclass(frozen=True)
class Half:
    """What one process of a pair measured, and what it reported at its end."""

    inferences: tuple[Inference, ...]
    run: TurnsRun


@dataclass(frozen=True)
class Pair:
    """A process of the baseline and one of the candidate, which took turns."""

    baseline: Half
    candidate: Half


@dataclass(frozen=True)
class Wave:
    """Pairs that were alive at once, and how long they took, not counting the wait for the lock."""

    pairs: list[Pair]
    measured_s: float

    @property
    def figures(self) -> list[float]:
        """The figure of every pair; see `pair_figure`."""
        return [pair_figure(p.baseline.inferences, p.candidate.inferences) for p in self.pairs]


class SideFailedError(StmdeployError):
    """A worker of one side died, hung or could not load its artifact (exit code 5), or its outputs
    are not the model's (exit code 4)."""

    def __init__(self, side: str, error: StmdeployError) -> None:
        differ = error.code is ExitCode.OUTPUTS_DIFFER
        code = ExitCode.OUTPUTS_DIFFER if differ else ExitCode.WORKER_FAILED
        super().__init__(f"{side}: {error.message}", error.hint, code, error.kind)


@dataclass
class _Player:
    """A side's worker, and what it has measured so far."""

    name: str
    player: Player[TurnsRun]
    inferences: list[Inference] = field(default_factory=list)

    def take_turn(self) -> None:
        """One turn; raises SideFailedError if it says why it cannot, or nothing more."""
        with self._named():
            self.inferences += from_words(self.player.take_turn())

    def listen(self) -> None:
        """Waits until it is ready; raises as `take_turn`."""
        with self._named():
            self.player.listen()

    def end(self) -> Half:
        """Lets it go; what it measured. Raises as `take_turn`."""
        with self._named():
            return Half(tuple(self.inferences), self.player.end())

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except StmdeployError as error:
            raise SideFailedError(self.name, error) from error

    @property
    def calm(self) -> int:
        """How many of its inferences nothing disturbed."""
        return sum(one.calm for one in self.inferences)


def measure_wave(
    baseline: Side, candidate: Side, timeout_s: float, dice: random.Random, progress: Progress
) -> Wave:
    """Measures a few pairs, all alive at once.

    Args:
        baseline, candidate: of the same device.
        timeout_s: a process that runs for longer is ended.
        dice: draws the order of the pairs, and which side of a pair begins.
        progress: told when something else is being measured on this machine.

    Raises:
        SideFailedError: a worker of either side failed; the wave is lost.
    """
    with machine_lock(progress), ExitStack() as stack:
        start = time.monotonic()
        count = pairs_that_fit(baseline, candidate, memory_available_mib())
        pairs = [
            (
                _start(stack, "baseline", baseline, timeout_s),
                _start(stack, "candidate", candidate, timeout_s),
            )
            for _ in range(count)
        ]
        for player in (player for pair in pairs for player in pair):
            player.listen()
        for done in range(_MOST_TURNS):
            if done >= _TURNS and all(one.calm >= _WANTED_CALM for pair in pairs for one in pair):
                break
            _play(pairs, dice)
        measured = [Pair(before.end(), after.end()) for before, after in pairs]
    return Wave(measured, time.monotonic() - start)


def pairs_that_fit(baseline: Side, candidate: Side, free_mib: float) -> int:
    """How many pairs may be alive at once: `PAIRS_AT_ONCE`, or fewer of large models, at least one.

    Args:
        free_mib: free memory of the host.
    """
    most = PAIRS_AT_ONCE[baseline.job.run.device]
    artifacts_mib = (baseline.artifact_bytes + candidate.artifact_bytes) / BYTES_PER_MIB
    pair_mib = 2 * _PROCESS_MIB + _ARTIFACT_TIMES * artifacts_mib
    return max(1, min(most, int(_MEMORY_SHARE * free_mib / pair_mib)))


def _start(stack: ExitStack, name: str, side: Side, timeout_s: float) -> _Player:
    settings = worker_settings(side.job.run)
    try:
        player = Player(side.job, settings, timeout_s, side.python)
    except StmdeployError as error:
        raise SideFailedError(name, error) from error
    return _Player(name, stack.enter_context(player))


def _play(pairs: list[tuple[_Player, _Player]], dice: random.Random) -> None:
    """One turn of every process: pairs in random order, and within a pair either one first."""
    for pair in dice.sample(pairs, len(pairs)):
        for player in dice.sample(pair, len(pair)):
            player.take_turn()
