"""Expected failures: their kind, one line saying what and where, a hint saying what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of the command line. They are a contract; never renumber them."""

    OK = 0
    REGRESSION = 1
    BAD_INPUT = 2
    CANNOT_TELL = 3
    OUTPUTS_DIFFER = 4
    WORKER_FAILED = 5


class FailureKind(StrEnum):
    """What went wrong, for code that decides what happens next."""

    INPUT = "input"
    CANNOT_TELL = "cannot tell"
    DIFFERS = "outputs differ"
    OUT_OF_MEMORY = "out of memory"
    #: By SIGKILL: most likely by the system, which had no more memory.
    KILLED = "killed"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    NOT_EXPORTED = "not exported"
    DEVICE = "device"
    STORAGE = "storage"
    ERROR = "error"


#: The kind of a failure for which only an exit code is given.
_USUAL_KINDS = {
    ExitCode.BAD_INPUT: FailureKind.INPUT,
    ExitCode.CANNOT_TELL: FailureKind.CANNOT_TELL,
    ExitCode.OUTPUTS_DIFFER: FailureKind.DIFFERS,
}


class StmdeployError(Exception):
    """An expected failure.

    Args:
        message: what went wrong, and where.
        hint: what to type or change instead; may be empty.
        code: the exit code that the command line ends with.
        kind: by default the usual kind of the exit code.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        code: ExitCode = ExitCode.BAD_INPUT,
        kind: FailureKind | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.kind = kind or _USUAL_KINDS.get(code, FailureKind.ERROR)

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class DestinationError(StmdeployError):
    """A folder or file cannot be written where it was asked for."""


class DiskFullError(DestinationError):
    """The disk has no room for it; something smaller may still fit."""


@dataclass(frozen=True)
class Failure:
    """A `StmdeployError` as data, to be stored and passed between processes.

    What happens next is decided by its kind alone; message, hint and code are the error's.
    """

    kind: FailureKind
    message: str
    hint: str = ""
    code: ExitCode = ExitCode.WORKER_FAILED

    @staticmethod
    def of(error: StmdeployError) -> Failure:
        """The failure that an error describes."""
        return Failure(error.kind, error.message, error.hint, error.code)

    def error(self, begins: str = "", hint: str = "") -> StmdeployError:
        """The error to raise for this failure.

        Args:
            begins: put before the message.
            hint: used where the failure has none.
        """
        return StmdeployError(begins + self.message, self.hint or hint, self.code, self.kind)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word: the nearest known one, or else all of them."""
    words = list(known)
    match = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"choose one of: {', '.join(words)}"
