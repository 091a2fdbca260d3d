"""The outcome of a race as a document."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from stmdeploy.measure.racing import HOPELESS, Dropped, Race
from stmdeploy.measure.summary import summarize
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import Measurement
from stmdeploy.schema.mixed import RatioTo
from stmdeploy.schema.tuned import State, Tuned, TunedCandidate
from stmdeploy.spec.tuning import TuneSpec
from stmdeploy.tuning.making import Entry

_ORDER: dict[State, int] = {"best": 0, "as good": 1, "worse": 2, "over a limit": 3, "failed": 4}


def told(
    spec: TuneSpec,
    race: Race,
    entries: Mapping[str, Entry],
    *,
    usual: str,
    reference: str,
    here: Environment,
    **known: Any,
) -> Tuned:
    """What a race came to.

    Args:
        usual, reference: names of those that all are compared with.
        here: this machine.
        known: further fields of `Tuned`.
    """
    within, beside = race.surely_within(), (race.leader, usual, reference)
    candidates = [_candidate(entry, race, beside) for entry in entries.values()]
    candidates.sort(key=lambda one: (_ORDER[one.state], standing(race, one.name)))
    others = [one.name for one in candidates if one.state in ("as good", "worse")]
    artifact = entries[race.leader].artifact
    assert artifact is not None
    info = artifact.manifest.model
    return Tuned(
        model=info.name,
        weights=info.weights.kind,
        weights_sha256=info.weights.sha256,
        image_size=info.image_size,
        objective=spec.objective,
        **vars(spec.limits),
        max_memory_mib=spec.max_memory_mib,
        data=spec.data.folder.resolve().name if spec.data else "random",
        best=race.leader,
        usual=usual,
        reference="" if entries[reference].out else reference,
        runner_up=next(iter(others), ""),
        error=spec.race.error,
        within_percent=min(100.0, 100 * (within - 1)) if math.isfinite(within) else None,
        waves=race.waves,
        stmdeploy_version=version("stmdeploy"),
        environment=here,
        candidates=tuple(candidates),
        **known,
    )


def standing(race: Race, name: str) -> float:
    """By what candidates are put in order: their cost over that of the leader."""
    ratio = race.ratio(name, race.leader)
    if ratio is not None:
        return ratio.ratio
    dropped = race.dropped.get(name)
    return dropped.ratio if dropped else math.inf


def _candidate(entry: Entry, race: Race, beside: tuple[str, ...]) -> TunedCandidate:
    one, run, made = entry.candidate, entry.candidate.run, entry.exported
    state, reason = _state(entry, race)
    dropped = race.dropped.get(one.name)
    beyond = (dropped.ratio if dropped.low is None else dropped.low) if dropped else None
    measured = summarize(list(entry.runs.values()), run) if entry.runs else None
    return TunedCandidate(
        name=one.name,
        state=state,
        reason=reason,
        target=one.target,
        runtime=run.runtime,
        precision=run.precision,
        lowering=one.form,
        batch=run.batch,
        threads=run.threads,
        in_flight=run.in_flight,
        settings=one.settings,
        artifact=str(made.path) if made and made.path else "",
        artifact_sha256=(made.sha256 or "") if made else "",
        relative_l2_error=made.relative_l2_error if made else None,
        limits=entry.test,
        waves=len(entry.runs),
        dropped_beyond=beyond,
        **_figures(measured),
        ratios=tuple(_ratios(entry, race, beside)),
    )


def _state(entry: Entry, race: Race) -> tuple[State, str]:
    name = entry.candidate.name
    if entry.out:
        return entry.out
    if name == race.leader:
        return "best", ""
    dropped = race.dropped.get(name)
    if dropped is not None:
        return "worse", _why(dropped)
    if name in race.left:
        return "as good", "cannot be told apart from the best"
    return "worse", "may not win: it runs for comparison"


def _ratios(entry: Entry, race: Race, beside: tuple[str, ...]) -> Iterable[RatioTo]:
    """Over the best, the usual and the reference, as far as the waves tell."""
    name = entry.candidate.name
    for other in dict.fromkeys(beside) if entry.runs else ():
        if other != name and (found := race.ratio(name, other)):
            yield RatioTo(of=other, ratio=found.ratio, low=found.low, high=found.high)


def _figures(measured: Measurement | None) -> Mapping[str, Any]:
    if measured is None:
        return {}
    names = (
        "latency_ms_p50", "latency_ms_p50_low", "latency_ms_p50_high", "throughput_images_s",
        "memory_peak_mib", "energy_j_per_image",
    )  # fmt: skip
    return {name: getattr(measured, name) for name in names}


def _why(dropped: Dropped) -> str:
    told = f"dropped after wave {dropped.wave}"
    if dropped.low is None:
        return f"{told}: beyond {HOPELESS:g} times in every wave"
    return f"{told}: surely more than {dropped.low:.3f} times"
