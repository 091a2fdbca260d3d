"""What a check allows: thresholds, budgets and gates, by default and by row.

They are read from ``[tool.stmdeploy.check]`` of a pyproject.toml, or from another TOML file, in
that table or at its top.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stmdeploy.errors import ExitCode, StmdeployError, nearest
from stmdeploy.files.reading import printable, read_toml

#: Figures whose growth may be limited, with their units: those of the artifacts, and those of the
#: processes. Throughput is that of inferences back to back; its growth is that of their time.
GATES = {
    "size": "MiB", "macs": "MACs", "fidelity": "relative L2",
    "memory": "MiB", "load": "ms", "first-inference": "ms", "throughput": "inferences/s",
    "tail": "% beyond p95",
}  # fmt: skip
#: How a check ends that cannot tell: with its own exit code, as a failure, or as a pass.
CANNOT_TELL = ("exit-3", "fail", "pass")
_PROJECT = Path("pyproject.toml")
_LONGEST_PATTERN = 200
_ROW_KEYS = ("threshold-percent", "budget-s", "gates")
_KEYS = (*_ROW_KEYS, "cannot-tell", "rows")


@dataclass(frozen=True)
class RowPolicy:
    """What one row is allowed.

    Attributes:
        threshold_percent: a slowdown beyond this is a regression.
        budget_s: measuring time of the row, both sides together.
        gates: how much a figure of `GATES` may grow, in per cent; any left out is not judged.
    """

    threshold_percent: float = 5.0
    budget_s: float = 60.0
    gates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _number("threshold-percent", self.threshold_percent, above=0.0)
        _number("budget-s", self.budget_s, above=0.0)
        for name, percent in self.gates.items():
            if name not in GATES:
                shown = printable(str(name))[:60]
                raise StmdeployError(f"unknown gate {shown!r}", nearest(shown, GATES))
            _number(f"gate {name}", percent, above=-1.0)


@dataclass(frozen=True)
class Policy:
    """What the rows of a check are allowed; where several patterns match, later ones win.

    Attributes:
        default: for rows that no pattern matches.
        rows: shell patterns of row names, each with the settings for those rows.
        cannot_tell: one of `CANNOT_TELL`.
    """

    default: RowPolicy = field(default_factory=RowPolicy)
    rows: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    cannot_tell: str = "exit-3"

    def __post_init__(self) -> None:
        if self.cannot_tell not in CANNOT_TELL:
            shown = printable(repr(self.cannot_tell))[:60]
            raise StmdeployError(f"unknown cannot-tell {shown}", nearest(shown, CANNOT_TELL))

    def over(self, settings: Mapping[str, Any]) -> Policy:
        """The policy with settings that win over all others, for every row."""
        default = _over(self.default, settings)
        return replace(self, default=default, rows=(*self.rows, ("*", settings)))

    @property
    def cannot_tell_code(self) -> ExitCode:
        """The exit code of a check that cannot tell."""
        codes = {"fail": ExitCode.REGRESSION, "pass": ExitCode.OK}
        return codes.get(self.cannot_tell, ExitCode.CANNOT_TELL)

    def unused(self, names: Iterable[str]) -> tuple[str, ...]:
        """The patterns that match none of these row names."""
        rows = tuple(names)
        return tuple(
            pattern
            for pattern, _ in self.rows
            if not any(fnmatchcase(name, pattern) for name in rows)
        )

    def of(self, name: str) -> RowPolicy:
        """What the row of that name is allowed."""
        found = self.default
        for pattern, settings in self.rows:
            if fnmatchcase(name, pattern):
                found = _over(found, settings)
        return found


@contextmanager
def told_by(policy: Policy) -> Iterator[None]:
    """Gives errors that mean "cannot tell" the exit code that the policy has for that."""
    try:
        yield
    except StmdeployError as error:
        if error.code is ExitCode.CANNOT_TELL:
            error.code = policy.cannot_tell_code
        raise


def read_policy(path: Path | None) -> Policy:
    """Reads the policy of a TOML file; for None, of ./pyproject.toml if there is one.

    Raises:
        StmdeployError: the file is missing or not TOML, a key is unknown, or a value out of range.
    """
    if path is None and not _PROJECT.is_file():
        return Policy()
    where = path or _PROJECT
    document = read_toml(where, "--config" if path is not None else "", "give a TOML file")
    table: Any = document
    for key in ("tool", "stmdeploy", "check"):
        table = table.get(key) if isinstance(table, dict) else None
    if table is None:
        table = document if path is not None and where.name != _PROJECT.name else {}
    try:
        return _policy(table)
    except StmdeployError as error:
        raise StmdeployError(f"{where}: {error.message}", error.hint) from error


def _policy(table: Any) -> Policy:
    _known(table, _KEYS)
    rows = []
    entries = table.get("rows", [])
    if not isinstance(entries, list):
        raise StmdeployError("rows is not a list of tables", "write [[tool.stmdeploy.check.rows]]")
    for entry in entries:
        _known(entry, ("match", *_ROW_KEYS))
        match = entry.get("match")
        if not isinstance(match, str) or len(match) > _LONGEST_PATTERN:
            raise StmdeployError("an entry of rows has no match", 'write match = "*dcn*/batch8"')
        settings = {key: value for key, value in entry.items() if key != "match"}
        _over(RowPolicy(), settings)  # so that a bad value is an error even if nothing matches
        rows.append((match, settings))
    default = _over(RowPolicy(), {key: table[key] for key in _ROW_KEYS if key in table})
    return Policy(default, tuple(rows), table.get("cannot-tell", "exit-3"))


def _known(table: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(table, dict):
        shown = printable(repr(table))[:60]
        raise StmdeployError(f"{shown} is not a table", f"give a table with: {', '.join(keys)}")
    for key in table:
        if key not in keys:
            shown = printable(str(key))[:60]
            raise StmdeployError(f"unknown key {shown!r}", nearest(shown, keys))


def _over(policy: RowPolicy, settings: Mapping[str, Any]) -> RowPolicy:
    gates = settings.get("gates", {})
    if not isinstance(gates, Mapping):
        raise StmdeployError("gates is not a table", "write gates = { memory = 10 }")
    return replace(
        policy,
        threshold_percent=settings.get("threshold-percent", policy.threshold_percent),
        budget_s=settings.get("budget-s", policy.budget_s),
        gates={**policy.gates, **gates},
    )


def _number(name: str, value: Any, above: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= above:
        shown = printable(repr(value))[:60]
        raise StmdeployError(f"{name} is {shown}", f"give a number above {above:g}")
