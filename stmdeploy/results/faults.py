"""Errors of a database in one line, with what to do about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, IntegrityError

from stmdeploy.errors import DestinationError, DiskFullError, ExitCode, StmdeployError
from stmdeploy.files.reading import parse_document, printable
from stmdeploy.schema.document import Document

DocumentT = TypeVar("DocumentT", bound=Document)

#: Turns a driver's error into one to show, given the name of the database.
Fault = Callable[[str, DBAPIError], StmdeployError]

RESTORE = "restore it from a backup, or choose another with --out or --store"
MEASURE_AGAIN = "measure again: stmdeploy profile"
_AGAIN = "run the command again; a profile goes on with --resume"
_ROOM = f"free some space, then {_AGAIN}"
_ACCESS = "check the user, the password and the user's rights on the database"
#: PostgreSQL's codes for a full disk, and for missing permissions (class 28 and 42501).
_DISK_FULL, _FORBIDDEN = "53100", ("28", "42501")


def damaged(name: str, reason: str) -> StmdeployError:
    """The error for a store that no stmdeploy has written like this."""
    return StmdeployError(f"{name} is damaged: {printable(reason)[:200]}", RESTORE)


def no_results(name: str) -> StmdeployError:
    """The error for a store that does not exist, or has no tables."""
    hint = "run `stmdeploy profile` first, or name a store by --out or --store"
    return StmdeployError(f"no results in {name}", hint)


def parsed(kind: type[DocumentT], document: str, where: str) -> DocumentT:
    """Parses a document out of a store; errors name it by `where`.

    Raises:
        StmdeployError: it is damaged.
    """
    return parse_document(kind.model_validate_json, document, where, MEASURE_AGAIN)


@contextmanager
def plain_errors(name: str, fault: Fault) -> Iterator[None]:
    """Turns errors that a user can do something about into a StmdeployError.

    An IntegrityError passes through: the code that writes knows what it means.
    """
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise fault(name, error) from error
    except (sqlite3.Error, UnicodeDecodeError) as error:  # before SQLAlchemy sees it
        raise damaged(name, str(error)) from error


def file_fault(name: str, error: DBAPIError) -> StmdeployError:
    """The error for one of SQLite's, which only differ in their words."""
    reason = str(error.orig).lower()
    if "full" in reason:
        return DiskFullError(f"cannot write to {name}: {reason}", _ROOM)
    if "readonly" in reason or "unable to open" in reason:
        return DestinationError(
            f"cannot write to {name}: {reason}", "make it writable, or choose another --out"
        )
    if any(words in reason for words in ("malformed", "not a database", "too big", "decode")):
        return damaged(name, reason)
    return StmdeployError(f"{name}: {reason}", _AGAIN, ExitCode.WORKER_FAILED)


def server_fault(name: str, error: DBAPIError) -> StmdeployError:
    """The error for one of PostgreSQL's: its first line, which never holds the password."""
    reason = " ".join(str(error.orig).split("\n", 1)[0].split())
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state == _DISK_FULL:
        return DiskFullError(f"{name}: {reason}", _ROOM)
    connection = getattr(error.orig, "pgconn", None)
    asked = connection is not None and (connection.used_password or connection.needs_password)
    # libpq gives no code when a server that it reached refuses a password.
    if state.startswith(_FORBIDDEN) or (asked and not error.connection_invalidated):
        return StmdeployError(f"{name}: {reason}", _ACCESS)
    if error.connection_invalidated or not state:
        return StmdeployError(
            f"{name} cannot be reached: {reason}",
            f"check host, port, user and password, then {_AGAIN}",
            ExitCode.WORKER_FAILED,
        )
    return StmdeployError(f"{name}: {reason}", _AGAIN)
