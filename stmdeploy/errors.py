"""The one exception type for expected failures, and the exit codes that scripts rely on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line. They are a contract; never renumber them."""

    OK = 0
    REGRESSION = 1
    BAD_INPUT = 2
    CANNOT_TELL = 3
    OUTPUTS_DIFFER = 4
    WORKER_FAILED = 5


class StmdeployError(Exception):
    """An expected failure: one line saying what and where, and a hint saying what to do.

    Args:
        message: what went wrong, naming the thing that is wrong.
        hint: what to type or change instead; may be empty.
        code: the exit code that the command line ends with.
    """

    def __init__(self, message: str, hint: str = "", code: ExitCode = ExitCode.BAD_INPUT) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word: the nearest known one, or all of them."""
    words = list(known)
    match = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"choose one of: {', '.join(words)}"
