"""Whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.cli.main import main
from stmdeploy.files.places import temporary_folder
from stmdeploy.files.writing import (
    remove_leftovers,
    scratch_folder,
    sha256_of,
    staging,
    writable,
    write_atomically,
)


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


LEAVES = """
import os, sys
from pathlib import Path
from stmdeploy.files.writing import scratch_folder, staging
with staging(Path(sys.argv[1])) as one, scratch_folder("test") as other:
    (one / "half").write_bytes(b"x" * 1000)
    (other / "half").write_bytes(b"x")
    print(one, other, flush=True)
    if sys.argv[2] == "wait":
        sys.stdin.readline()
    os.kill(os.getpid(), 9)
"""


def leave(folder: Path, how: str) -> tuple[subprocess.Popen[str], Path, Path]:
    """A process with scratch folders, which it leaves behind, or still holds."""
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVES, str(folder), how], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    one, other = map(Path, process.stdout.readline().split())
    return process, one, other


def test_what_a_killed_process_left_goes_with_the_next_command(tmp_path: Path) -> None:
    process, one, other = leave(tmp_path, "die")
    process.wait()
    assert (one / "half").exists() and (other / "half").exists()
    write_atomically(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with scratch_folder("test"):
        assert not other.exists()


def test_any_command_removes_what_was_left_in_the_temporary_folder(tmp_path: Path) -> None:
    process, _, other = leave(tmp_path, "die")
    process.wait()
    assert other.exists()
    assert main(["list", "--json"]) == 0
    assert not other.exists()


def test_what_a_living_process_works_on_stays(tmp_path: Path) -> None:
    process, one, other = leave(tmp_path, "wait")
    write_atomically(tmp_path / "a", b"new")
    remove_leftovers(tmp_path)
    with scratch_folder("test"):
        assert (one / "half").exists() and (other / "half").exists()
    process.kill()
    process.communicate()
    remove_leftovers(tmp_path)
    assert not one.exists()


def test_somebody_elses_temporary_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may make a folder of our name in /tmp, or a link."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = tmp_path / f"stmdeploy-{os.getuid()}"
    place.symlink_to("/")
    with pytest.raises(StmdeployError, match="not this user's alone"):
        temporary_folder()
    place.unlink()
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(StmdeployError, match="not this user's alone"):
        temporary_folder()
    place.rmdir()
    assert temporary_folder().stat().st_mode & 0o777 == 0o700


def test_a_scratch_folder_can_be_staged_in(tmp_path: Path) -> None:
    """As an export does that nobody keeps."""
    with scratch_folder("test") as scratch, staging(tmp_path) as partial:
        write_atomically(scratch / "a", b"1")
        write_atomically(partial / "b", b"2")
        assert (scratch / "a").read_bytes() + (partial / "b").read_bytes() == b"12"
    assert not scratch.exists() and not partial.parent.exists()
