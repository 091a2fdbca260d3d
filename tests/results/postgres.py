"""A PostgreSQL server of the tests' own: started on a free port, gone afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, text

PASSWORD = "pass:word/with @ signs"
_QUOTED = "pass%3Aword%2Fwith%20%40%20signs"


def programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``; None where PostgreSQL is not installed."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).parent)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


def _as_owner(command: list[str | Path]) -> None:
    """The server refuses to run as root."""
    words = [str(word) for word in command]
    if os.getuid() == 0:
        words = ["runuser", "-u", "postgres", "--", *words]
    subprocess.run(words, check=True, capture_output=True, timeout=600)


@dataclass(frozen=True)
class Server:
    """A server; `url` is of its own database, password included, others are made by `database`."""

    url: str
    home: Path
    port: int

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self.home} -c fsync=off"
        self._control("-w", "-l", self.home / "log", "-o", options, "start")

    def stop(self) -> None:
        """Ends it at once, as a crash does."""
        self._control("-m", "immediate", "stop")

    def processes(self) -> list[int]:
        """Those that it consists of now."""
        main = int((self.home / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]

    def _control(self, *words: str | Path) -> None:
        folder = programs()
        assert folder is not None
        _as_owner([folder / "pg_ctl", "-D", self.home / "data", *words])


@contextmanager
def server() -> Iterator[Server]:
    """A server that is there as long as the body runs."""
    folder = programs()
    assert folder is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = Path(tempfile.mkdtemp(prefix="stmdeploy-postgres-", dir="/tmp"))
    password = home / "password"
    password.write_text(PASSWORD)
    if os.getuid() == 0:
        for path in (home, password):
            shutil.chown(path, "postgres")
    _as_owner([folder / "initdb", "-D", home / "data", "-U", "owner", "-A", "scram-sha-256",
               f"--pwfile={password}", "-E", "UTF8", "--locale=C"])  # fmt: skip
    made = Server(f"postgresql+psycopg://owner:{_QUOTED}@127.0.0.1:{port}/postgres", home, port)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(home)


def database(url: str, name: str) -> str:
    """The URL of a new, empty database on a server."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return f"{url.rpartition('/')[0]}/{name}"
