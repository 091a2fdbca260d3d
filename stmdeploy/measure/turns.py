"""A loaded, warm model that runs when it is told to: one side of a comparison.

Two workers hold one side each, and only the one whose turn it is runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stmdeploy.contracts import Runner
from stmdeploy.measure.clock import Clock
from stmdeploy.measure.run_delay import RunDelay
from stmdeploy.measure.sampling import timed
from stmdeploy.measure.session import Check, load_model, peak_memory_mib
from stmdeploy.results.row import Environment, TurnsRun

if TYPE_CHECKING:
    from stmdeploy.contracts import Array

#: What a side is told: to take a turn; nothing ends it.
TURN = "turn"
#: After loading, so many inferences are thrown away.
WARM_RUNS = 3
#: Of a turn, how many inferences are thrown away: the other side has emptied the caches.
COLD_RUNS = 1
#: A turn is over after so many calm inferences, or this long, with one inference at least.
CALM_RUNS, TURN_LIMIT_S = 3, 0.3
#: An inference is calm if its threads waited for a processor no longer than this share of it.
CALM_SHARE = 0.03
_NS_PER_S = 1e9


@dataclass(frozen=True)
class Inference:
    """One inference: how long it took, and how long its threads waited for a processor."""

    duration_ns: int
    delay_ns: int = 0

    @property
    def calm(self) -> bool:
        """Whether nothing else wanted its processors."""
        return self.delay_ns <= CALM_SHARE * self.duration_ns


def take_turns(
    import_runtime: Callable[[], None],
    load: Callable[[], Runner],
    make_images: Callable[[], Array],
    check: Check,
    clock: Clock,
    environment: Environment,
    next_word: Callable[[], str],
    answer: Callable[[list[Inference]], None],
) -> TurnsRun:
    """Loads a model and warms it up, then takes a turn whenever it is told to.

    Args:
        import_runtime, load, make_images, check, clock: as of `session.measure`.
        environment: recorded with what is measured.
        next_word: waits for `TURN`; empty ends it.
        answer: takes the inferences of every turn, and once, before the first, none.
    """
    loaded = load_model(import_runtime, load, make_images, check, clock)
    for _ in range(WARM_RUNS):
        loaded.runner.run()
    answer([])
    while next_word() == TURN:
        answer(one_turn(loaded.runner.run, clock))
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
    """The inferences of one turn, the cold ones left out.

    After a pause a system may put all threads on one processor until it notices; such
    inferences are not calm, and the turn goes on.
    """
    end = clock.now_ns() + TURN_LIMIT_S * _NS_PER_S
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
    """A turn in a line, as `from_words` reads it."""
    return " ".join(f"{one.duration_ns}+{one.delay_ns}" for one in inferences)


def from_words(line: str) -> list[Inference]:
    """Reads what `to_words` wrote."""
    return [Inference(*map(int, word.split("+"))) for word in line.split()]
