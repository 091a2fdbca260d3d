"""The database of a store: a SQLite file, or a PostgreSQL server that several machines share.

Every change is one transaction, on both. A server's name is shown without user and password.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Executable, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from stmdeploy.errors import DestinationError, StmdeployError
from stmdeploy.results import schema
from stmdeploy.results.faults import Fault, file_fault, no_results, plain_errors, server_fault

FILE_NAME = "results.db"
#: The only supported server and driver.
_SERVER_DRIVER = "postgresql+psycopg"
#: How long a writer waits for other writers.
_BUSY_TIMEOUT_S = 60
_CONNECT_TIMEOUT_S = 10
_PRAGMAS = ("trusted_schema=OFF", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
_READ_ONLY = "stmdeploy_read_only"
#: Most bytes of a document or of a process's samples; longer values are not ours, and not loaded.
_LONGEST_VALUE = 64 * 2**20
#: Key of the lock that is held while the tables of a server are made or migrated.
_SCHEMA_LOCK = 7_302_001


class Database:
    """An open file or server, with the tables of this version.

    Attributes:
        name: name for messages, without user and password.
        identity: the same for the same database, whatever the path or user.

    Args:
        fault: turns the driver's errors into those that are shown.
        for_reading: execution options of connections that only read.
    """

    def __init__(
        self, name: str, identity: str, engine: Engine, fault: Fault, **for_reading: Any
    ) -> None:
        self.name, self.identity = name, identity
        self._engine, self._fault, self._for_reading = engine, fault, for_reading

    @contextmanager
    def writing(self, *, alone: bool = False) -> Iterator[Connection]:
        """A transaction; with `alone`, no other process writes meanwhile."""
        with plain_errors(self.name, self._fault), self._engine.begin() as connection:
            if alone:
                self._keep_others_out(connection)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of all tables, and does not block writers."""
        engine = self._engine.execution_options(**self._for_reading)
        with plain_errors(self.name, self._fault), engine.connect() as connection:
            yield connection

    def write(self, statement: Executable) -> None:
        """Executes a statement in its own transaction."""
        with self.writing() as connection:
            connection.execute(statement)

    def read(self, query: Executable) -> Sequence[Any]:
        """The lines that a query finds."""
        with self.reading() as connection:
            return connection.execute(query).all()

    def _keep_others_out(self, connection: Connection) -> None:
        """Does nothing by default: a file has one writer at a time."""

    def reclaim(self) -> None:
        """Returns the space of removed lines to the disk; a server does so by itself."""

    def remove(self) -> None:
        """Deletes the database if it is a file; others may use a server's."""
        self.close()

    def close(self) -> None:
        """Disconnects; what was written is complete."""
        self._engine.dispose()


class SqliteFile(Database):
    """A SQLite file; writers of other processes wait for their turn."""

    def __init__(self, path: Path, *, create: bool) -> None:
        if not create and not path.is_file():
            raise no_results(str(path))
        if create and not path.parent.is_dir():
            folder = path.parent
            raise DestinationError(f"there is no folder {folder}", f"run mkdir -p {folder} first")
        engine, reads = _sqlite_engine(path), {_READ_ONLY: True}
        super().__init__(str(path), str(path.resolve()), engine, file_fault, **reads)
        self._path = path
        with self.writing() as connection:
            schema.refuse_programs(connection, self.name)
            schema.bring_up_to_date(connection, self.name)
            schema.refuse_other_types(connection, self.name)

    def reclaim(self) -> None:
        """Shrinks the file."""
        with plain_errors(self.name, file_fault):
            connection = self._engine.raw_connection()
            connection.cursor().execute("VACUUM")
            connection.close()

    def remove(self) -> None:
        """Deletes the file, and SQLite's log files beside it."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


class PostgresServer(Database):
    """A PostgreSQL server that several machines write to at once."""

    def __init__(self, url: str, *, create: bool) -> None:
        parsed = server_url(url)
        bare = URL.create(
            "postgresql", host=parsed.host, port=parsed.port, database=parsed.database
        ).render_as_string()
        engine, reads = _server_engine(parsed), {"isolation_level": "REPEATABLE READ"}
        super().__init__(bare, bare, engine, server_fault, **reads)
        with self.writing() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
            schema.bring_up_to_date(connection, self.name, create=create)

    def _keep_others_out(self, connection: Connection) -> None:
        tables = ", ".join(f'"{table.name}"' for table in schema.metadata.sorted_tables)
        connection.execute(text(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE"))


def server_url(url: str) -> URL:
    """Parses the URL of a server.

    Raises:
        StmdeployError: it is not one; the message leaves it out, because it may hold a password.
    """
    hint = f"give {_SERVER_DRIVER}://HOST/DATABASE; the password goes into PGPASSWORD or ~/.pgpass"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a ValueError would quote the URL
        raise StmdeployError("--store is not the URL of a database", hint) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername=_SERVER_DRIVER)
    if parsed.drivername != _SERVER_DRIVER:
        raise StmdeployError(f"--store cannot use the driver {parsed.drivername!r}", hint)
    return parsed


def _sqlite_engine(path: Path) -> Engine:
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: object) -> None:
        # BEGIN is sent below, so that a writer waits for its turn at the start, not midway.
        connection.isolation_level = None
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get(_READ_ONLY)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _server_engine(url: URL) -> Engine:
    usual = {"application_name": "stmdeploy", "connect_timeout": str(_CONNECT_TIMEOUT_S)}
    try:
        return create_engine(url.set(query={**usual, **url.query}), pool_pre_ping=True)
    except (ImportError, NoSuchModuleError):
        raise StmdeployError(
            "psycopg, which talks to PostgreSQL, is not installed",
            "pip install 'stmdeploy[postgres]'",
        ) from None
