"""The one reader: what is no plain, bounded document is a line, and costs nothing."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.cli.main import main
from stmdeploy.files.reading import (
    DOCUMENT_MIB,
    check_bounds,
    one_line,
    parse_json,
    plain_name,
    plain_path,
    plain_text,
    printable,
    read_bytes,
    read_toml,
)
from stmdeploy.schema.artifact import manifest_path


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "a", "", "", 1) == b"content"
    assert read_bytes(tmp_path / "link", "", "", 1) == b"content"


def test_a_pipe_as_a_manifest_does_not_hang(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tmp_path / "a.onnx"
    artifact.touch()
    os.mkfifo(manifest_path(artifact))
    begun = time.monotonic()
    assert main(["inspect", str(artifact)]) == 2
    assert "is no regular file" in capsys.readouterr().err
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/stdin", "/"])
def test_a_link_to_a_device_or_a_folder_is_refused(tmp_path: Path, device: str) -> None:
    (tmp_path / "a").symlink_to(device)
    with pytest.raises(StmdeployError, match=r"is no regular file|permission"):
        read_bytes(tmp_path / "a", "--sweep", "", 1)


def test_a_manifest_of_300_mib_is_not_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tmp_path / "a.onnx"
    artifact.touch()
    with manifest_path(artifact).open("wb") as file:
        file.truncate(300 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["inspect", str(artifact)]) == 2
    assert f"is larger than {DOCUMENT_MIB} MiB" in capsys.readouterr().err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10


@pytest.mark.parametrize("name", ["a\0b", "", "x" * 5000])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(StmdeployError):
        read_bytes(Path(name), "--sweep", "hint", 1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "is not JSON"),
        (b"[" * 60 + b"]" * 60, "nested deeper"),
        (b"1" + b"0" * 5000, "is not JSON|beyond 64 bits"),
        (b'{"a": 9223372036854775808}', "beyond 64 bits"),
        (b"[NaN]", "is not JSON"),
        (b"[Infinity]", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"", "is not JSON"),
    ],
)
def test_json_without_measure_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(StmdeployError, match=says) as error:
        parse_json(content, "it", "mend it")
    assert error.value.hint == "mend it"


@pytest.mark.parametrize(
    "content",
    [b"a = " + b"[" * 100_000, b"a = 1" + b"0" * 5000, b"a = 9223372036854775808", b"\xff", b"a ="],
)
def test_toml_without_measure_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(StmdeployError, match=r"is not TOML|beyond 64 bits"):
        read_toml(tmp_path / "a.toml", "--sweep", "")


def test_sensible_documents_are_within_bounds() -> None:
    check_bounds({"a": [1, -1, 2**63 - 1, 1.5, True, None, "x", {"b": []}]}, "it", "")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "C:x", "a\0", "a\n", "x" * 300]
)
def test_what_is_no_name_of_a_file(name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        plain_name(name)


@pytest.mark.parametrize("path", ["", "/", "/a", "a//b", "a/../b", "./a", "a/"])
def test_what_is_no_path_below_a_folder(path: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        plain_path(path)
    assert plain_path("objects/abc/net.onnx") == "objects/abc/net.onnx"


def test_names_for_people() -> None:
    assert plain_text("unified_dcn 224x224") == "unified_dcn 224x224"
    for text in ("a\nb", "\x1b[31m", "x" * 300, "\u202e"):
        with pytest.raises(ValueError, match="not a plain name"):
            plain_text(text)


def test_what_moves_the_cursor_is_not_printed() -> None:
    assert printable("a\x1b[2Jb\n\u202ec\ud800") == "a\ufffd[2Jb\ufffd\ufffdc\ufffd"
    assert one_line("a\n::set-output\t x") == "a ::set-output x"
