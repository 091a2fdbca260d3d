"""What to know about rows before using them: each thing once, with all rows it is true of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stmdeploy.report.profile_table import UNSTEADY, failed_tries, varying_settings
from stmdeploy.schema.row import Row

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
#: Settings whose values mean nothing without their names.
_NAMED = ("python", "threads", "in flight")


@dataclass(frozen=True)
class Caveat:
    """One thing to know, and the names of the rows that it is true of."""

    text: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """Caveats of one kind."""

    title: str
    caveats: tuple[Caveat, ...]


def is_unsteady(row: Row) -> bool:
    """Whether a row's latency is marked as unsteady; LoadGen's rows have a verdict instead."""
    m = row.measurement
    return m is not None and not m.steady and row.failure is None and m.scenario is None


def caveats(rows: Sequence[Row], failed_since: Sequence[Row] = ()) -> tuple[Topic, ...]:
    """What was not measured steadily, with what to try; what failed, and why.

    Args:
        rows: those that the report shows.
        failed_since: failures of the same rows that are newer than their measurements.
    """
    everything = (*rows, *failed_since)
    named = list(zip(everything, _names(everything), strict=True))
    shown, later = named[: len(rows)], named[len(rows) :]
    topics = (
        Topic(f"{UNSTEADY} Not measured steadily", _alike(_advice(shown), ranges=True)),
        Topic(
            "Bound by the host, which enqueues more slowly than the GPU computes",
            _alike(
                ("the latency is the host's: take --use-cuda-graph, or a larger batch", name)
                for row, name in shown
                if row.measurement is not None and row.measurement.bound_by_host
            ),
        ),
        Topic("Failed", _alike((row.failure, name) for row, name in shown if row.failure)),
        Topic(
            "Failed after the measurement that is shown",
            _alike((row.failure, name) for row, name in later if row.failure),
        ),
        Topic("INVALID by the rules of LoadGen", _alike(_reasons(shown))),
        Topic("Measured only after another try", _alike(_tries(shown))),
    )
    return tuple(topic for topic in topics if topic.caveats)


def _names(rows: Sequence[Row]) -> list[str]:
    """A name that tells every row from the others: its model, what varies, and its batch."""
    varying = varying_settings(rows)

    def name(i: int) -> str:
        settings = (f"{k} {v[i]}" if k in _NAMED else v[i] for k, v in varying.items())
        return ", ".join([rows[i].model, *settings, f"batch {rows[i].batch}"])

    return [name(i) for i in range(len(rows))]


Told = Iterable[tuple[str, str]]
Named = Sequence[tuple[Row, str]]


def _advice(rows: Named) -> Told:
    for row, name in rows:
        if row.measurement is not None and row.failure is None:
            yield from ((advice, name) for advice in row.measurement.advice)


def _reasons(rows: Named) -> Told:
    for row, name in rows:
        result = row.measurement.scenario if row.measurement else None
        if result is not None and not result.valid and row.failure is None:
            yield from ((reason, name) for reason in result.reasons or ("it gives no reason",))


def _tries(rows: Named) -> Told:
    for row, name in rows:
        if len(row.tries) > 1:
            yield f"tried {len(row.tries)} times: {failed_tries(row)}", name


def _alike(told: Told, *, ranges: bool = False) -> tuple[Caveat, ...]:
    """Groups rows by text; with `ranges`, texts that differ only by their numbers are one."""
    found: dict[str, list[tuple[str, str]]] = {}
    for text, name in told:
        found.setdefault(_NUMBER.sub("#", text) if ranges else text, []).append((text, name))
    return tuple(
        Caveat(_with_ranges([text for text, _ in some]), tuple(name for _, name in some))
        for some in found.values()
    )


def _with_ranges(texts: Sequence[str]) -> str:
    """One text for those that differ only by numbers: ``1 s``, ``3 s`` -> ``1 .. 3 s``."""
    figures = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    ends = iter([(min(some, key=float), max(some, key=float)) for some in figures])

    def told(_: re.Match[str]) -> str:
        least, most = next(ends)
        return least if float(least) == float(most) else f"{least} .. {most}"

    return _NUMBER.sub(told, texts[0])
