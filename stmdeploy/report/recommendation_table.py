"""A recommendation as a table and as JSON: why these rows, and why not the others."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stmdeploy.report.profile_table import latency_cells, varying_settings
from stmdeploy.report.recommendation import (
    Judged,
    Kept,
    Recommendation,
    accuracy_of,
    memory_mib,
    told_apart,
)
from stmdeploy.report.text_table import ABSENT, TextTable, counted, significant
from stmdeploy.results.frame import flat
from stmdeploy.schema.measurement import Measurement
from stmdeploy.spec.model import DETECTION

_WORDS = {Kept.NOT_CERTAIN: "not certain", Kept.NOT_KNOWN: "not known", Kept.NO: "broken"}


def recommendation_table(found: Recommendation, title: str, runners_up: int) -> TextTable:
    """Choices, then at most `runners_up` runners-up, each with its reason."""
    shown = [("choice", one) for one in found.choices]
    shown += [("runner-up", one) for one in found.runners_up[:runners_up]]
    settings = varying_settings([one.row for _, one in shown])
    cells = tuple(
        (what, one.row.model, *(column[i] for column in settings.values()), *_cells(one),
         reason(one, found))
        for i, (what, one) in enumerate(shown)
    )  # fmt: skip
    detection = any(one.row.task == DETECTION for _, one in shown)
    accuracy = "box AP" if detection else "top-1 %"
    headers = (
        "row", "backbone", *settings, "batch", accuracy, "latency ms",
        "95 % interval", "images/s", "MiB", "why",
    )  # fmt: skip
    return TextTable(
        headers,
        cells,
        left=2 + len(settings),
        notes=_notes(found, runners_up),
        keys=3 + len(settings),
        drop_first=("MiB", "images/s", "95 % interval", accuracy, "why"),
        wrap=(accuracy, "why"),
        title=title,
    )


def recommendation_document(found: Recommendation) -> dict[str, Any]:
    """The recommendation as JSON, with every figure of the rows."""
    return {
        group: [
            {
                "reason": reason(one, found),
                "limits": {name: kept.name.lower() for name, kept in one.limits.items()},
                **flat(one.row),
            }
            for one in getattr(found, group)
        ]
        for group in ("choices", "runners_up", "left_out")
    }


def reason(one: Judged, found: Recommendation) -> str:
    """Why a row is a choice, a runner-up or left out."""
    short = [f"{_words(name)} {_WORDS[kept]}" for name, kept in one.limits.items() if kept]
    if short:
        return ", ".join(short)
    if one not in found.choices:
        return "another row is as good in accuracy, latency and throughput"
    fastest = min(found.choices, key=lambda c: _measured(c).latency_ms_p50)
    bests = {
        "the most accurate": found.choices[0] if accuracy_of(one.row) else None,
        "the fastest": fastest,
        "the highest throughput": max(
            found.choices, key=lambda c: _measured(c).throughput_images_s
        ),
    }
    alike = [c for c in found.choices if c is not one and told_apart(c.row, one.row) is False]
    words = [word for word, best in bests.items() if best is one]
    if fastest is one and alike:
        words[words.index("the fastest")] = "as fast as any"
    elif fastest in alike:
        words.append("as fast as any")
    if alike and "as fast as any" in words:
        words.append(f"not told apart from {', '.join(c.row.model for c in alike)}")
    return " and ".join(words) or "no other row is as good in accuracy, latency and throughput"


def _measured(one: Judged) -> Measurement:
    assert one.row.measurement is not None
    return one.row.measurement


def _words(name: str) -> str:
    """``max_latency_ms`` -> latency; ``min_box_ap_percent`` -> box AP."""
    words = name.split("_")
    return f"{words[1]} AP" if "ap" in words else words[1]


def _cells(one: Judged) -> tuple[str, ...]:
    row, m = one.row, _measured(one)
    accuracy = accuracy_of(row)
    return (
        str(row.batch),
        f"{accuracy.value:.1f} ({accuracy.kind})" if accuracy else ABSENT,
        *latency_cells(m),
        significant(m.throughput_images_s),
        significant(memory_mib(m)),
    )


def _notes(found: Recommendation, runners_up: int) -> tuple[str, ...]:
    reasons = Counter(
        f"{_words(name)} {_WORDS[kept]}"
        for one in found.left_out
        for name, kept in one.limits.items()
        if kept > Kept.NOT_CERTAIN
    )
    notes = [
        "Chosen from the rows of the store. Costs were measured; accuracy says where it is from. "
        "A limit is kept when the figure's whole 95 % interval keeps it, where it has one."
    ]
    if len(found.runners_up) > runners_up:
        notes.append(f"{len(found.runners_up) - runners_up} more runners-up: raise --runners-up.")
    if found.left_out:
        listed = ", ".join(f"{why} ({n})" for why, n in reasons.most_common())
        notes.append(f"{counted(len(found.left_out), 'row')} left out: {listed}.")
    if any("top1" in name and kept is Kept.NOT_KNOWN
           for one in found.left_out for name, kept in one.limits.items()):  # fmt: skip
        notes.append(
            "Accuracy is published for float32 only. To measure that of other artifacts: "
            "stmdeploy evaluate ARTIFACT --data FOLDER."
        )
    return tuple(notes)
