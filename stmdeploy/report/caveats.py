"""What to know about rows before using them: each thing once, with all rows it is true of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stmdeploy.report.alike import Caveat, Told, alike
from stmdeploy.report.profile_table import UNSTEADY, failed_tries, varying_settings
from stmdeploy.schema.row import Row

#: Settings whose values mean nothing without their names.
_NAMED = ("python", "threads", "in flight")


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
        Topic(f"{UNSTEADY} Not measured steadily", alike(_advice(shown), ranges=True)),
        Topic(
            "Bound by the host, which enqueues more slowly than the GPU computes",
            alike(
                ("the latency is the host's: take --use-cuda-graph, or a larger batch", name)
                for row, name in shown
                if row.measurement is not None and row.measurement.bound_by_host
            ),
        ),
        Topic("Failed", alike((row.failure, name) for row, name in shown if row.failure)),
        Topic(
            "Failed after the measurement that is shown",
            alike((row.failure, name) for row, name in later if row.failure),
        ),
        Topic("INVALID by the rules of LoadGen", alike(_reasons(shown))),
        Topic("Measured only after another try", alike(_tries(shown))),
    )
    return tuple(topic for topic in topics if topic.caveats)


def _names(rows: Sequence[Row]) -> list[str]:
    """A name that tells every row from the others: its model, what varies, and its batch."""
    varying = varying_settings(rows)

    def name(i: int) -> str:
        settings = (f"{k} {v[i]}" if k in _NAMED else v[i] for k, v in varying.items())
        return ", ".join([rows[i].model, *settings, f"batch {rows[i].batch}"])

    return [name(i) for i in range(len(rows))]


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
