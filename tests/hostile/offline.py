"""Runs a command line in processes that the kernel ends when they ask for an internet socket.

Run: python -m tests.hostile.offline WORDS...; Linux on x86-64 or aarch64. The filter is inherited
by every child, and nobody can take it off again.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys
from pathlib import Path

#: Of an architecture: its number for seccomp, and its system call ``socket``.
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_KILL_PROCESS, _ALLOW = 0x80000000, 0x7FFF0000
#: Instructions of classic BPF: load a word at, jump if equal, return.
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
#: Where a filter finds the call's number, the architecture, and the first argument.
_NUMBER_AT, _MACHINE_AT, _ARGUMENT_AT = 0, 4, 16


def possible() -> bool:
    """Whether this machine has such filters."""
    return sys.platform == "linux" and platform.machine() in _MACHINES


def environment() -> dict[str, str]:
    """From which the tests can be imported, in workers too."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": os.environ["HOME"]}


def guard() -> None:
    """From here on, sockets of the internet end the process that asks for one."""
    machine, call = _MACHINES[platform.machine()]
    program = [
        (_LOAD, 0, 0, _MACHINE_AT), (_EQUAL, 0, 6, machine),
        (_LOAD, 0, 0, _NUMBER_AT), (_EQUAL, 0, 4, call),
        (_LOAD, 0, 0, _ARGUMENT_AT),
        (_EQUAL, 1, 0, int(socket.AF_INET)), (_EQUAL, 0, 1, int(socket.AF_INET6)),
        (_RETURN, 0, 0, _KILL_PROCESS), (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    held = ctypes.create_string_buffer(code)
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _MODE_FILTER, filter_)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    from stmdeploy.cli.main import main

    guard()
    sys.exit(main())
