"""The outcome of a race, as a table."""

from __future__ import annotations

from stmdeploy.report.choice import limits_in_words
from stmdeploy.report.text_table import ABSENT, BAD, GOOD, OPEN, TextTable, significant
from stmdeploy.schema.tuned import Tuned, TunedCandidate


def tuned_table(found: Tuned) -> TextTable:
    """A line for every candidate, the best first."""
    several = len({(one.batch, one.in_flight) for one in found.candidates}) > 1
    cells = [_line(one, found, several=several) for one in found.candidates]
    headers = (
        "", "configuration", "settings", "x best", "95 % interval", "x usual", "latency ms",
        "images/s", "MiB", "why",
    )  # fmt: skip
    return TextTable(
        headers,
        tuple(cells),
        left=3,
        keys=2,
        drop_first=("MiB", "images/s", "latency ms", "why", "95 % interval", "x usual"),
        wrap=("settings", "why"),
        verdicts=(("best", GOOD), ("failed", BAD), ("over a limit", OPEN)),
        title=f"{found.model}, batch {found.named(found.best).batch}: least {_cost(found)}",
        notes=tuple(_notes(found)),
    )


def _cost(found: Tuned) -> str:
    return {"throughput": "time per image, back to back", "memory": "memory"}.get(
        found.objective, found.objective
    )


def _line(one: TunedCandidate, found: Tuned, *, several: bool) -> tuple[str, ...]:
    settings = [f"{one.threads} threads" if one.threads > 1 else "1 thread"]
    if several:
        settings.append(f"batch {one.batch}")
        settings += [f"{one.in_flight} in flight"] if one.in_flight > 1 else []
    settings += [_setting(flag, value) for flag, value in one.settings.items()]
    return (
        one.state,
        f"{one.runtime} {one.precision} {one.lowering}",
        ", ".join(settings),
        *_to_best(one, found.best),
        _to_usual(one, found.usual),
        significant(one.latency_ms_p50),
        significant(one.throughput_images_s),
        significant(one.memory_peak_mib),
        one.reason,
    )


def _setting(flag: str, value: object) -> str:
    words = flag.replace("_", "-")
    if value is True:
        return words
    return f"no {words}" if value is False else f"{words} {value}"


def _to_best(one: TunedCandidate, best: str) -> tuple[str, str]:
    """The cost over the best's, and its interval; of the hopeless, beyond what."""
    if one.name == best:
        return "1", ABSENT
    ratio = next((ratio for ratio in one.ratios if ratio.of == best), None)
    if ratio is not None:
        return significant(ratio.ratio), f"{significant(ratio.low)} .. {significant(ratio.high)}"
    beyond = one.dropped_beyond
    return (ABSENT if beyond is None else f"> {significant(beyond)}"), ABSENT


def _to_usual(one: TunedCandidate, usual: str) -> str:
    if one.name == usual:
        return "1"
    return significant(next((ratio.ratio for ratio in one.ratios if ratio.of == usual), None))


def _notes(found: Tuned) -> list[str]:
    best = found.named(found.best)
    notes = [f"Best: {best.name}. {_gain(best, found)}"]
    equal = [one.name for one in found.candidates if one.state == "as good"]
    if equal:
        notes.append(f"Cannot be told apart from it: {'; '.join(equal)}.")
    if found.within_percent is None:
        within = "how near the best it is, is not known"
    elif found.within_percent:
        within = f"the winner is surely within {found.within_percent:.1f} % of the best of these"
    else:
        within = "the winner is the best of these"
    notes.append(
        f"The race is over: {found.ended_by}; {within}, with a probability of "
        f"{100 * (1 - found.error):g} %. {found.waves} waves of fresh processes, by turns, "
        f"{found.measured_s:.0f} s; exports and tests of the limits {found.exported_s:.0f} s."
    )
    notes.append(_limits(found))
    where = found.environment
    notes.append(
        f"Measured on {where.processor}, {where.threads_available} processors, "
        f"{found.started_utc[:10]}, stmdeploy {found.stmdeploy_version}: on another machine, tune "
        "again."
    )
    return notes


def _gain(best: TunedCandidate, found: Tuned) -> str:
    told = []
    for words, other in (
        ("the usual configuration", found.usual),
        ("the model as torch.onnx gives it", found.reference),
    ):
        ratio = next((ratio for ratio in best.ratios if ratio.of == other), None)
        if ratio is not None:
            gain, low, high = (1 / value for value in (ratio.ratio, ratio.high, ratio.low))
            told.append(f"{gain:.2f} times ({low:.2f} .. {high:.2f}) as good as {words}")
    if not told:
        return "It is what is run unless told otherwise."
    if found.weights == "file":
        return f"It is {told[0]}."
    return f"It is {' and '.join(told)}, both in ONNX Runtime and fp32."


def _limits(found: Tuned) -> str:
    limits, memory = limits_in_words(found), found.max_memory_mib
    every = [*limits, f"memory at most {memory} MiB"] if memory is not None else limits
    told = f"Limits: {'; '.join(every)}." if every else ""
    if not limits:
        exact = "Only fp32 raced, whose outputs are within 1e-5 of PyTorch's in float64."
        if found.weights == "file":
            exact = "The file raced as it is; nobody has verified it."
        return f"{exact} {told}".strip()
    over = "noise, which looks like no photograph" if found.data == "random" else found.data
    return (
        f"{told} What low precisions keep is a bound over images that had no part in anything "
        f"({over}); all such bounds of this race hold together with 95 %."
    )
