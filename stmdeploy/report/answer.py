"""What a report says first: what was measured, who is fastest, most accurate and on the front."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import groupby

from stmdeploy.report.ratios import Compared, short_names
from stmdeploy.report.recommendation import accuracy_of, latency_of
from stmdeploy.report.text_table import counted, significant
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import DETECTION
from stmdeploy.spec.run import LOOP

#: Of more batches and devices, the first so many are told.
_MOST_LINES = 6
_MOST_NAMES = 8


def measured_in_words(rows: Sequence[Row]) -> str:
    """How many rows were measured and failed, on what, when, and by which version."""
    failed = sum(row.failure is not None for row in rows)
    days = sorted({row.started_utc[:10] for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    devices = " and ".join(dict.fromkeys(row.device_name for row in rows))
    versions = ", ".join(sorted({row.stmdeploy_version for row in rows}))
    return (
        f"{counted(len(rows) - failed, 'row')} measured, {failed} failed, on {devices}, {when}, "
        f"by stmdeploy {versions}."
    )


def answers(rows: Sequence[Row], found: Sequence[Compared]) -> tuple[str, ...]:
    """For every batch on every device: who is fastest, who is most accurate, who is on the front.

    Args:
        found: what `ratios.compared` says of the rows: which cannot be told apart.
    """
    letters = {one.row: one.group for one in found}
    drawn = [
        i for i, row in enumerate(rows)
        if row.measurement is not None and row.failure is None and row.scenario == LOOP
    ]  # fmt: skip

    def place(i: int) -> tuple[str, int, str]:
        return rows[i].task, rows[i].batch, rows[i].device_name

    told = []
    devices = {rows[i].device_name for i in drawn}
    for (task, batch, device), some in groupby(sorted(drawn, key=place), place):
        mine = list(some)
        if len(mine) < 2:
            continue
        where = f"Batch {batch}" + (f" on {device}" if len(devices) > 1 else "")
        where += f", {task}" if task == DETECTION else ""
        told.append(f"{where}: {_answer(rows, mine, letters)}.")
    if len(told) > _MOST_LINES:
        left = len(told) - _MOST_LINES
        told[_MOST_LINES:] = [f"And {left} more batches and devices, in the table."]
    return tuple(told)


def _answer(rows: Sequence[Row], mine: Sequence[int], letters: dict[int, str]) -> str:
    names = dict(zip(mine, short_names([rows[i] for i in mine]), strict=True))
    latency = {i: latency_of(m).value for i in mine if (m := rows[i].measurement)}
    accuracy = {i: found for i in mine if (found := accuracy_of(rows[i])) is not None}
    fastest = min(mine, key=lambda i: latency[i])
    shared = set(letters.get(fastest, ""))
    alike = [names[i] for i in mine if i != fastest and shared & set(letters.get(i, ""))]
    parts = [f"fastest {names[fastest]} ({significant(latency[fastest])} ms)"]
    if alike:
        parts[0] += f", which cannot be told apart from {_listed(alike)}"
    if accuracy:
        best = max(accuracy, key=lambda i: accuracy[i].value)
        known = accuracy[best]
        parts.append(f"most accurate {names[best]} ({significant(known.value)} %, {known.kind})")
        front, highest = [], float("-inf")
        for i in sorted(accuracy, key=lambda i: (latency[i], -accuracy[i].value)):
            if accuracy[i].value > highest:
                highest = accuracy[i].value
                front.append(names[i])
        parts.append(f"on the front of both: {_listed(front)}")
    else:
        parts.append("no accuracy is known")
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    """Names, with ``and`` before the last; of many the first ones."""
    shown = list(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        return f"{', '.join(shown)} and {len(names) - _MOST_NAMES} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def command_for(rows: Sequence[Row]) -> str:
    """The command that measures rows like these, and where they form no full grid, more of them;
    options that no row tells of are left out."""
    words = ["stmdeploy", "profile"]
    every = {
        "--stm": [row.model for row in rows if row.weights not in ("own", "file") and row.scale],
        "--model": [row.model for row in rows if row.weights == "own"],
    }
    words += dict.fromkeys(row.model for row in rows if row.weights == "file")
    every |= {
        "--task": [row.task for row in rows if row.task == DETECTION],
        "--image-size": [row.image for row in rows if row.image not in ("224x224", "-")],
        "--runtime": [row.runtime for row in rows],
        "--precision": [row.precision for row in rows],
        "--batch": [str(row.batch) for row in rows],
        "--threads": [str(row.threads) for row in rows if row.device == "cpu"],
    }
    for flag, values in every.items():
        if values:
            words += [flag, ",".join(dict.fromkeys(values))]
    return shlex.join(words)
