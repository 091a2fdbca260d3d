"""Every test of the store runs over both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from stmdeploy.results.store import Store
from tests.results import postgres


@dataclass(frozen=True)
class Backend:
    """One of the two: makes stores, and looks at them behind their backs."""

    folder: Path
    server: str

    def new(self, name: str) -> Store:
        folder = self.folder / name
        folder.mkdir()
        url = postgres.database(self.server, f"{name}-{uuid4().hex[:8]}") if self.server else ""
        return Store(folder, url=url, create=True)

    def place(self, store: Store) -> tuple[Path, str]:
        """What opens a store again."""
        name = store.name.rpartition("/")[2]
        return store.folder, f"{self.server.rpartition('/')[0]}/{name}" if self.server else ""

    def again(self, store: Store) -> Store:
        folder, url = self.place(store)
        return Store(folder, url=url)

    def execute(self, store: Store, statement: str) -> list[tuple[Any, ...]]:
        """A statement by another client; its lines."""
        if not self.server:
            with sqlite3.connect(store.name) as connection:
                return connection.execute(statement).fetchall()
        engine = create_engine(self.place(store)[1])
        with engine.begin() as connection:
            found = connection.execute(text(statement.replace(":", "\\:")))
            lines = [tuple(line) for line in found] if found.returns_rows else []
        engine.dispose()
        return lines

    def check(self, store: Store) -> None:
        """The file itself is whole."""
        if not self.server:
            assert self.execute(store, "PRAGMA integrity_check") == [("ok",)]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server of this session's own."""
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres.server() as made:
        yield made.url


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Both databases, one after the other."""
    server = request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""
    return Backend(tmp_path, server)
