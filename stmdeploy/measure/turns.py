"""One side of a comparison: a loaded, warm model that runs when it is told to.

Two workers hold one side each, and only the one whose turn it is runs. It tells of every inference
how long it took, and how long its threads waited; `calm` says which of them count for what.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import fmean

from stmdeploy.measure.calm import OthersUse, run_delay
from stmdeploy.measure.clock import Clock
from stmdeploy.measure.outputs import kept
from stmdeploy.measure.sampling import Turn, burst, take_turn
from stmdeploy.measure.session import Model, load_model, peak_memory_mib
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import TurnsRun
from stmdeploy.spec.units import NS_PER_S

#: Inferences thrown away after loading.
WARM_RUNS = 3
#: How long a turn takes, unless one inference takes longer, and the burst at the end, in seconds.
TURN_S, BURST_S = 0.06, 0.1
#: No turn at all.
NONE = Turn((), ())


def take_turns(
    model: Model,
    clock: Clock,
    environment: Environment,
    others: OthersUse,
    next_turn: Callable[[Turn], bool],
    flush_cache: Callable[[], None] | None = None,
) -> TurnsRun:
    """Loads a model and warms it up, then takes a turn whenever it is told to, and ends with some
    inferences back to back.

    Args:
        model: how it is loaded.
        clock: read before and after every inference.
        environment: recorded with what is measured.
        others: told of every turn.
        next_turn: given the last turn, an empty one before the first; waits for the next one, and
            is False if there is none any more.
        flush_cache: called before every inference of a turn; None for warm caches.

    Raises:
        StmdeployError: (exit code 4) what the model's check raises.
    """
    loaded = load_model(model, clock)
    run = loaded.runner.run
    for _ in range(WARM_RUNS):
        run()
    taken = NONE
    while next_turn(taken):
        with run_delay() as waited_ns:  # anew for every turn: threads come and go
            taken = others.watched(partial(take_turn, run, clock, TURN_S, waited_ns, flush_cache))
    runs, burst_ns = burst(
        run, clock, fmean(taken.durations_ns or (1,)), BURST_S if taken.durations_ns else 0.0
    )
    return TurnsRun(
        runtime_import_ms=loaded.runtime_import_ms,
        load_ms=loaded.load_ms,
        first_inference_ms=loaded.first_inference_ms,
        memory_peak_mib=peak_memory_mib(),
        runtime_facts=loaded.runner.facts(),
        outputs=tuple(tuple(map(float, kept(one[:1])[0])) for one in loaded.runner.outputs()),
        environment=environment,
        burst_runs=runs,
        burst_s=burst_ns / NS_PER_S,
        others_processors=others.processors,
    )


def to_words(turn: Turn) -> str:
    """Writes a turn as one line, which `from_words` reads."""
    return " ".join(f"{a}+{b}" for a, b in zip(turn.durations_ns, turn.waited_ns, strict=True))


def from_words(line: str) -> Turn:
    """Reads what `to_words` wrote.

    Raises:
        ValueError: another version wrote it.
    """
    pairs = [tuple(map(int, word.split("+"))) for word in line.split()]
    durations, waited = zip(*pairs, strict=True) if pairs else ((), ())
    return Turn(durations, waited)
