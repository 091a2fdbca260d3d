"""One side of a comparison: a loaded, warm model that runs when it is told to.

Two workers hold one side each, and only the one whose turn it is runs. All of its inferences count,
but for the first one of a turn: to leave out those that something disturbed would hide what a model
does to itself, with threads of its own or more threads than there are processors.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from stmdeploy.measure.calm import OthersUse
from stmdeploy.measure.clock import Clock
from stmdeploy.measure.sampling import burst, take_turn
from stmdeploy.measure.session import Model, load_model, peak_memory_mib
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import TurnsRun
from stmdeploy.spec.units import NS_PER_S

#: Inferences thrown away after loading.
WARM_RUNS = 3
#: How long a turn takes, unless one inference takes longer, and the burst at the end, in seconds.
TURN_S, BURST_S = 0.06, 0.1
#: Nanoseconds of a turn's inferences.
Turn = tuple[int, ...]


def take_turns(
    model: Model,
    clock: Clock,
    environment: Environment,
    others: OthersUse,
    next_turn: Callable[[Turn], bool],
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

    Raises:
        StmdeployError: (exit code 4) what the model's check raises.
    """
    loaded = load_model(model, clock)
    run = loaded.runner.run
    for _ in range(WARM_RUNS):
        run()
    taken: Turn = ()
    while next_turn(taken):
        taken = others.watched(lambda: take_turn(run, clock, TURN_S).durations_ns)
    runs, burst_ns = burst(run, clock, fmean(taken or (1,)), BURST_S if taken else 0.0)
    return TurnsRun(
        runtime_import_ms=loaded.runtime_import_ms,
        load_ms=loaded.load_ms,
        first_inference_ms=loaded.first_inference_ms,
        memory_peak_mib=peak_memory_mib(),
        runtime_facts=loaded.runner.facts(),
        logits=tuple(map(float, loaded.runner.output()[0])),
        environment=environment,
        burst_runs=runs,
        burst_s=burst_ns / NS_PER_S,
        others_processors=others.processors,
    )


def to_words(turn: Turn) -> str:
    """Writes a turn as one line, which `from_words` reads."""
    return " ".join(map(str, turn))


def from_words(line: str) -> Turn:
    """Reads what `to_words` wrote."""
    return tuple(map(int, line.split()))
