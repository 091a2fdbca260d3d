"""The database under a store: a SQLite file, or a PostgreSQL server that several share.

Every change is one transaction, on both. A server's name is said without user and password.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files import DestinationError, DiskFullError
from stmdeploy.reading import printable
from stmdeploy.results.schema import (
    bring_up_to_date,
    metadata,
    refuse_other_types,
    refuse_programs,
)

FILE_NAME = "results.db"
#: The one kind of server, and its driver.
SERVER_DRIVER = "postgresql+psycopg"
#: How long a writer waits for the others.
_BUSY_TIMEOUT_S = 60
_CONNECT_TIMEOUT_S = 10
_READ_ONLY = "stmdeploy_read_only"
#: The bytes of a document or of a process's samples: more is not ours, and must not be loaded.
_LONGEST_VALUE = 64 * 2**20
#: Of the lock that everybody takes who makes or migrates the tables of a server.
_SCHEMA_LOCK = 7_302_001
#: PostgreSQL's codes of a full disk, and of what a user may not do (class 28 and 42501).
_DISK_FULL, _FORBIDDEN = "53100", ("28", "42501")


class Database(Protocol):
    """One of the two, open, with the tables of this version."""

    @property
    def name(self) -> str:
        """For messages; without user and password."""

    @property
    def identity(self) -> str:
        """The same for the same database, by whatever path or user."""

    def writing(self, *, alone: bool = False) -> Any:
        """A transaction, as a context manager; ``alone``: nobody else writes meanwhile."""

    def reading(self) -> Any:
        """A connection that reads one state of everything, as a context manager."""

    def reclaim(self) -> None:
        """Gives the space of what was taken out back."""

    def remove(self) -> None:
        """Takes an empty database off the disk, where it is a file."""

    def close(self) -> None:
        """Gives it up; what was written is complete."""


class SqliteFile:
    """A file; writers of other processes wait for their turn."""

    def __init__(self, path: Path, *, create: bool) -> None:
        if not create and not path.is_file():
            raise StmdeployError(
                f"no results in {path}", "run `stmdeploy profile` first, or give --out"
            )
        if create and not path.parent.is_dir():
            raise DestinationError(f"there is no folder {path.parent}", "make it first")
        self.path, self.name, self.identity = path, str(path), str(path.resolve())
        self._engine = _sqlite_engine(path)
        with self.writing() as connection:
            refuse_programs(connection, self.name)
            bring_up_to_date(connection, self.name)
            refuse_other_types(connection, self.name)

    @contextmanager
    def writing(self, *, alone: bool = False) -> Iterator[Connection]:
        """A transaction. A file has one writer at a time, ``alone`` or not."""
        del alone
        with _plain_errors(self.name, _file_fault), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that keeps no writer waiting."""
        engine = self._engine.execution_options(**{_READ_ONLY: True})
        with _plain_errors(self.name, _file_fault), engine.connect() as connection:
            yield connection

    def reclaim(self) -> None:
        """Makes the file smaller."""
        with _plain_errors(self.name, _file_fault):
            connection = self._engine.raw_connection()
            connection.cursor().execute("VACUUM")
            connection.close()

    def remove(self) -> None:
        """Takes the file off the disk."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Gives the file up."""
        self._engine.dispose()


class PostgresServer:
    """A server that several machines write to at once."""

    def __init__(self, url: str, *, create: bool) -> None:
        parsed = server_url(url)
        self.name = self.identity = _without_credentials(parsed)
        self._engine = _server_engine(parsed)
        with self.writing() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
            bring_up_to_date(connection, self.name, create=create)

    @contextmanager
    def writing(self, *, alone: bool = False) -> Iterator[Connection]:
        """A transaction; ``alone``: the tables are locked against other writers."""
        with _plain_errors(self.name, _server_fault), self._engine.begin() as connection:
            if alone:
                tables = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
                connection.execute(text(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE"))
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of all tables."""
        engine = self._engine.execution_options(isolation_level="REPEATABLE READ")
        with _plain_errors(self.name, _server_fault), engine.connect() as connection:
            yield connection

    def reclaim(self) -> None:
        """Nothing: the server does it by itself."""

    def remove(self) -> None:
        """Nothing: a server's tables are others' too."""
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()


def server_url(url: str) -> URL:
    """The URL of a server, checked.

    Raises:
        StmdeployError: something else; without repeating it, because it may hold a password.
    """
    hint = f"write {SERVER_DRIVER}://HOST/DATABASE, and the password into PGPASSWORD or ~/.pgpass"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter would say what it could not read
        raise StmdeployError("--store is no URL of a database", hint) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername=SERVER_DRIVER)
    if parsed.drivername != SERVER_DRIVER:
        raise StmdeployError(f"--store has no driver {parsed.drivername!r}", hint)
    return parsed


def _without_credentials(url: URL) -> str:
    """``postgresql://host:5432/database``."""
    where = f"{url.host or ''}{f':{url.port}' if url.port else ''}"
    return f"postgresql://{where}/{url.database or ''}"


def _sqlite_engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: object) -> None:
        # BEGIN is said below, so that a writer waits for its turn at the start, not midway.
        connection.isolation_level = None
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        for pragma in (
            "trusted_schema=OFF", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON",
        ):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get(_READ_ONLY)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _server_engine(url: URL) -> Engine:
    options = {"application_name": "stmdeploy", "connect_timeout": _CONNECT_TIMEOUT_S}
    given = {name: value for name, value in options.items() if name not in url.query}
    try:
        return create_engine(url, connect_args=given, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError):
        raise StmdeployError(
            "psycopg, which talks to PostgreSQL, is not installed",
            "pip install 'stmdeploy[postgres]'",
        ) from None


@contextmanager
def _plain_errors(name: str, fault: Callable[[str, DBAPIError], StmdeployError]) -> Iterator[None]:
    """Turns what a user can do something about into one line."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise fault(name, error) from error
    except (sqlite3.Error, UnicodeDecodeError) as error:  # before SQLAlchemy sees it
        raise _damaged(name, str(error)) from error


def _file_fault(name: str, error: DBAPIError) -> StmdeployError:
    reason = str(error.orig).lower()
    if "full" in reason:
        return DiskFullError(
            f"cannot write to {name}: {reason}", "free some space and go on with --resume"
        )
    if "readonly" in reason or "unable to open" in reason:
        return DestinationError(
            f"cannot write to {name}: {reason}", "choose another --out or free some space"
        )
    if any(words in reason for words in ("malformed", "not a database", "too big", "decode")):
        return _damaged(name, reason)
    return StmdeployError(f"{name}: {reason}", "go on with --resume", ExitCode.WORKER_FAILED)


def _damaged(name: str, reason: str) -> StmdeployError:
    hint = "restore it, or choose another --out"
    return StmdeployError(f"{name} is damaged: {printable(reason)[:200]}", hint)


def _server_fault(name: str, error: DBAPIError) -> StmdeployError:
    """The server's first line; psycopg's own never hold the password."""
    reason = " ".join(str(error.orig).split("\n", 1)[0].split())
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state == _DISK_FULL:
        return DiskFullError(f"{name}: {reason}", "free some space there, and --resume")
    if state.startswith(_FORBIDDEN):
        return StmdeployError(f"{name}: {reason}", "check the user, the password and its rights")
    connection = getattr(error.orig, "pgconn", None)
    asked = connection is not None and (connection.used_password or connection.needs_password)
    if asked and not error.connection_invalidated:
        # It was reached, and asked for a password; libpq gives such refusals no code.
        return StmdeployError(f"{name}: {reason}", "check the user, the password and its rights")
    if error.connection_invalidated or not state:
        return StmdeployError(
            f"{name} cannot be reached: {reason}",
            "check host, port, user and password; go on with --resume",
            ExitCode.WORKER_FAILED,
        )
    return StmdeployError(f"{name}: {reason}", "try again")
