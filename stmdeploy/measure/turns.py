"""One side of a comparison: a loaded, warm model that runs when it is told to.

Two workers hold one side each, and only the one whose turn it is runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stmdeploy.measure.clock import Clock
from stmdeploy.measure.sampling import timed
from stmdeploy.measure.session import Model, load_model, peak_memory_mib
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import TurnsRun
from stmdeploy.spec.units import NS_PER_S

#: Inferences thrown away after loading.
WARM_RUNS = 3
#: Inferences thrown away at the start of a turn: the other side has emptied the caches.
COLD_RUNS = 1
#: A turn ends after so many calm inferences, or so many seconds, but not before one inference.
CALM_RUNS, TURN_LIMIT_S = 3, 0.3
#: An inference is calm if its threads waited for a processor for at most this share of it.
CALM_SHARE = 0.03


@dataclass(frozen=True)
class Inference:
    """How long an inference took, and how long its threads waited for a processor, all together."""

    duration_ns: int
    delay_ns: int = 0

    @property
    def calm(self) -> bool:
        """Whether hardly anything else used its processors."""
        return self.delay_ns <= CALM_SHARE * self.duration_ns


class RunDelay:
    """How long this process's present threads have waited for a processor while ready to run, as
    Linux counts it in ``/proc/self/task/*/schedstat``; always 0 on other systems."""

    def __init__(self) -> None:
        self._files: list[IO[bytes]] = []
        with suppress(OSError):
            for task in Path("/proc/self/task").iterdir():
                with suppress(OSError):
                    self._files.append((task / "schedstat").open("rb", buffering=0))

    def close(self) -> None:
        """Closes the files; the delay is 0 from then on."""
        for file in self._files:
            file.close()

    def total_ns(self) -> int:
        """Nanoseconds so far, summed over the threads."""
        total = 0
        for file in self._files:
            with suppress(OSError, IndexError, ValueError):
                file.seek(0)
                total += int(file.read().split()[1])
        return total


def take_turns(
    model: Model,
    clock: Clock,
    environment: Environment,
    next_turn: Callable[[list[Inference]], bool],
) -> TurnsRun:
    """Loads a model and warms it up, then takes a turn whenever it is told to.

    Args:
        model: how it is loaded.
        clock: read before and after every inference.
        environment: recorded with what is measured.
        next_turn: given the inferences of the last turn, none before the first; waits for the
            next one, and is False if there is none any more.

    Raises:
        StmdeployError: (exit code 4) what the model's check raises.
    """
    loaded = load_model(model, clock)
    for _ in range(WARM_RUNS):
        loaded.runner.run()
    taken: list[Inference] = []
    while next_turn(taken):
        taken = one_turn(loaded.runner.run, clock)
    return TurnsRun(
        runtime_import_ms=loaded.runtime_import_ms,
        load_ms=loaded.load_ms,
        first_inference_ms=loaded.first_inference_ms,
        memory_peak_mib=peak_memory_mib(),
        runtime_facts=loaded.runner.facts(),
        logits=tuple(map(float, loaded.runner.output()[0])),
        environment=environment,
    )


def one_turn(run: Callable[[], None], clock: Clock) -> list[Inference]:
    """Takes one turn, and gives its inferences without the cold ones.

    After a pause the system may put all threads on one processor for a while; such inferences are
    not calm, so the turn goes on.
    """
    end = clock.now_ns() + TURN_LIMIT_S * NS_PER_S
    for _ in range(COLD_RUNS):
        run()
    delay = RunDelay()
    kept: list[Inference] = []
    while not kept or (clock.now_ns() < end and sum(one.calm for one in kept) < CALM_RUNS):
        before = delay.total_ns()
        duration_ns = timed(run, clock)
        kept.append(Inference(duration_ns, delay.total_ns() - before))
    delay.close()
    return kept


def to_words(inferences: list[Inference]) -> str:
    """Writes a turn as one line, which `from_words` reads."""
    return " ".join(f"{one.duration_ns}+{one.delay_ns}" for one in inferences)


def from_words(line: str) -> list[Inference]:
    """Reads what `to_words` wrote."""
    return [Inference(*map(int, word.split("+"))) for word in line.split()]
