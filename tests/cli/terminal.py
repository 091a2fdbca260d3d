"""A pseudo-terminal of some width, and what is shown on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

from stmdeploy.cli.console import print_table
from stmdeploy.report.text_table import TextTable


def run_in_terminal(columns: int, arguments: list[str], folder: Path) -> list[str]:
    """The lines that a command shows, which ends well."""
    master, slave = _terminal(columns)
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(_read, master)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "stmdeploy", *arguments],
                stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.PIPE, text=True,
                cwd=folder, env=environment, check=False,
            )  # fmt: skip
        finally:
            os.close(slave)
        shown = reading.result()
    assert done.returncode == 0, done.stderr
    return shown


def print_in_terminal(columns: int, table: TextTable) -> list[str]:
    """The lines that a table takes, printed by this process."""
    master, slave = _terminal(columns)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(_read, master)
        with (
            os.fdopen(slave, "w") as terminal,
            redirect_stdout(terminal),
            patch.object(sys, "__stdout__", terminal),
            patch.dict(os.environ),
        ):
            os.environ.pop("COLUMNS", None)
            print_table(table)
        return reading.result()


def _terminal(columns: int) -> tuple[int, int]:
    """Both ends of a terminal: what reads it, and what programs write to."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    return master, slave


def _read(master: int) -> list[str]:
    """Every line until nobody writes any more, without colours."""
    shown = b""
    with os.fdopen(master, "rb", buffering=0) as terminal:
        try:
            while some := terminal.read(65536):
                shown += some
        except OSError:
            pass  # how Linux says that the other end is closed
    text = re.sub(r"\x1b\[[\d;]*m", "", shown.decode().replace("\r\n", "\n"))
    return text.splitlines()
