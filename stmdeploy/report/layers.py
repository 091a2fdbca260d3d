"""Where an inference's time goes: as a table of parts and operators, and as a Chrome trace."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean, median
from typing import Any

from stmdeploy.backbones.complexity import KINDS
from stmdeploy.report.text_table import TextTable, significant
from stmdeploy.schema.measurement import OperatorTime

Inferences = Sequence[Sequence[OperatorTime]]
#: Operators shown; the rest are in the JSON document.
_SHOWN = 12
_US_PER_MS = 1000.0


def kind_of_part(part: str) -> str:
    """``stage 2 mixer`` -> mixer; stem and head as they are; "other" for anything else."""
    kind = part.split()[-1]
    return kind if kind in KINDS else "other"


def percent_by_kind(parts_ms: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds of an inference by part -> per cent by kind of part."""
    whole = sum(parts_ms.values())
    by_kind = dict.fromkeys(KINDS, 0.0)
    for part, ms in parts_ms.items():
        by_kind[kind_of_part(part)] += 100 * ms / whole
    return by_kind


def mean_ms(inferences: Inferences, by: str) -> dict[str, float]:
    """Mean milliseconds of an inference by "part", "operator" or "kind" of part, largest first."""
    total: defaultdict[str, float] = defaultdict(float)
    for time in chain.from_iterable(inferences):
        key = kind_of_part(time.part) if by == "kind" else getattr(time, by)
        total[key] += time.duration_ms
    ordered = sorted(total.items(), key=lambda entry: -entry[1])
    return {key: ms / len(inferences) for key, ms in ordered}


def layers_document(inferences: Inferences) -> dict[str, Any]:
    """The means as JSON: by kind of part, part and operator."""
    kinds = mean_ms(inferences, "kind")
    whole = sum(kinds.values())
    return {
        "inferences": len(inferences),
        "operators_ms": whole,
        "mixer_share_percent": 100 * kinds.get("mixer", 0.0) / whole if whole else None,
        "kinds_ms": kinds,
        "parts_ms": mean_ms(inferences, "part"),
        "operators_by_type_ms": mean_ms(inferences, "operator"),
    }


def layers_table(title: str, inferences: Inferences) -> TextTable:
    """Parts, then the operators that take most, each with its share."""
    whole = fmean(sum(time.duration_ms for time in inference) for inference in inferences)
    percent = 100 / whole if whole else 0.0
    lines = [("part", name, ms) for name, ms in sorted(mean_ms(inferences, "part").items())]
    operators = list(mean_ms(inferences, "operator").items())
    lines += [("operator", name, ms) for name, ms in operators[:_SHOWN]]
    cells = tuple((what, name, significant(ms), f"{percent * ms:.1f}") for what, name, ms in lines)
    kinds = ", ".join(
        f"{kind} {percent * ms:.0f} %" for kind, ms in mean_ms(inferences, "kind").items()
    )
    notes = (
        f"{kinds}.",
        f"Means of {len(inferences)} inferences under the runtime's profiler, which takes time "
        f"itself; the operators of an inference add up to {significant(whole)} ms.",
    )
    headers = ("by", "name", "ms", "%")
    return TextTable(headers, cells, left=2, notes=notes, keys=2, title=title)


def chrome_trace(title: str, inferences: Inferences) -> str:
    """The inference of median duration as JSON in Chrome's trace format, which Perfetto reads."""
    totals = [sum(time.duration_ms for time in inference) for inference in inferences]
    middle = median(totals)
    chosen = min(range(len(totals)), key=lambda i: abs(totals[i] - middle))
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 0, "tid": 0, "name": "process_name", "args": {"name": title}}
    ]
    events += [
        {
            "ph": "X",
            "pid": 0,
            "tid": 0,
            "name": time.operator,
            "cat": time.part,
            "ts": _US_PER_MS * time.start_ms,
            "dur": _US_PER_MS * time.duration_ms,
            "args": {"name": time.name, "part": time.part},
        }
        for time in inferences[chosen]
    ]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
