"""Whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.files import sha256_of, staging, writable, write_atomically


def test_a_failure_removes_what_was_made(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staging(tmp_path / "a" / "b") as scratch:
        (scratch / "half").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ZeroDivisionError), staging(tmp_path):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StmdeployError, match=r"cannot write to .*: (not a directory|file exists)"):
        write_atomically(tmp_path / "file" / "x.json", b"")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x").startswith("ba7816bf8f01cfea")


def test_other_peoples_errors_keep_their_names(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writable(tmp_path / "out"):
        (tmp_path / "elsewhere" / "weights").read_bytes()
    with pytest.raises(KeyboardInterrupt), writable(tmp_path / "out"):
        try:
            (tmp_path / "out" / "weights").read_bytes()
        except FileNotFoundError:
            raise KeyboardInterrupt from None
    with pytest.raises(StmdeployError, match="my own words"), writable(tmp_path / "out"):
        raise StmdeployError("my own words") from OSError(errno.ENOSPC, "full")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_behind_a_librarys_error(tmp_path: Path) -> None:
    with (
        pytest.raises(StmdeployError, match=r"cannot write to .*: no space left"),
        writable(tmp_path),
    ):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("writer failed")  # noqa: B904
