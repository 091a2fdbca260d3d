"""Packed baselines as an attacker packs them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.cli.main import main
from stmdeploy.files.archives import unpack

DOCUMENT = b"{}"


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """One entry of an archive."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A .tar.gz that begins with its document."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for info, content in (member("./baseline.json", DOCUMENT), *members):
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def take(content: bytes, folder: Path, sizes: dict[str, int]) -> None:
    """Unpacks what a document lists."""
    path = folder / "archive.tar.gz"
    path.write_bytes(content)
    inside = folder / "in" / "side"
    inside.mkdir(parents=True)
    with path.open("rb") as file, unpack(file, "it", "hint") as archive:
        assert archive.document("baseline.json") == DOCUMENT
        archive.take(sizes, inside)


def test_what_is_listed_is_taken(tmp_path: Path) -> None:
    content = packed(member("./objects", type=tarfile.DIRTYPE), member("./objects/a", b"123"),
                     member("b", b"4"))  # fmt: skip
    take(content, tmp_path, {"objects/a": 3, "b": 1})
    assert (tmp_path / "in/side/objects/a").read_bytes() == b"123"
    assert (tmp_path / "in/side/b").read_bytes() == b"4"


def nested_links() -> tuple[tuple[tarfile.TarInfo, bytes], ...]:
    """CVE-2025-4517: links so long that the path behind them is no longer resolved."""
    step, long = "abcdefghijklmnop", "d" * 247
    members, path = [], ""
    for letter in step:
        members.append(member(f"{path}{long}", type=tarfile.DIRTYPE))
        members.append(member(f"{path}{letter}", type=tarfile.SYMTYPE, linkname=long))
        path = f"{path}{long}/"
    link = "/".join(step) + "/" + "l" * 254
    members += [
        member(link, type=tarfile.SYMTYPE, linkname="../" * len(step)),
        member("escape", type=tarfile.SYMTYPE, linkname=link + "/../../../outside"),
        member("flag", type=tarfile.LNKTYPE, linkname="escape/flag"),
        member("flag", b"escaped"),
    ]
    return tuple(members)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        (nested_links(), "which is no plain file"),
        ((member("a", type=tarfile.SYMTYPE, linkname="/etc/passwd"),), "which is no plain file"),
        ((member("a", type=tarfile.LNKTYPE, linkname="b"),), "which is no plain file"),
        ((member("a", type=tarfile.CHRTYPE),), "which is no plain file"),
        ((member("a", type=tarfile.FIFOTYPE),), "which is no plain file"),
        ((member("../a", b"1"),), "holds a file named"),
        ((member("/tmp/a", b"1"),), "holds a file named"),
        ((member("x/../../a", b"1"),), "holds a file named"),
        ((member("a\nb", b"1"),), "holds a file named"),
        ((member("a", b"1"), member("a", b"1")), "holds 'a' twice"),
        ((member("a", b"1"), member("c", b"1")), "holds 'c' unlisted"),
        ((member("a", b"12"),), "has 2 bytes of a, not 1"),
        ((), "holds no a"),
    ],
)
def test_anything_else_is_refused(
    tmp_path: Path, members: tuple[tuple[tarfile.TarInfo, bytes], ...], says: str
) -> None:
    (tmp_path / "outside").mkdir()
    with pytest.raises(StmdeployError, match=says) as error:
        take(packed(*members), tmp_path, {"a": 1})
    assert error.value.code == 2
    assert list((tmp_path / "outside").iterdir()) == []
    found = [path.name for path in tmp_path.rglob("*") if not path.is_dir()]
    assert set(found) <= {"archive.tar.gz", "a"}


def test_the_links_of_cve_2025_4517_through_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "evil.tar.gz").write_bytes(packed(*nested_links()))
    assert main(["baseline", "show", str(tmp_path / "evil.tar.gz")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list((tmp_path / "outside").iterdir()) == []


def block(info: tarfile.TarInfo, content: bytes = b"") -> bytes:
    """A member as it stands in an archive."""
    return info.tobuf() + content.ljust(-(-len(content) // 512) * 512, b"\0")


def zeros(mib: int) -> bytes:
    """Packed: gzip reads what stands one after the other as one."""
    return gzip.compress(bytes(64 * 2**20)) * (mib // 64)


def refused_within_bounds(content: bytes, tmp_path: Path, sizes: dict[str, int]) -> str:
    """Why it is refused: before it has cost time or room."""
    begun = time.process_time()
    with pytest.raises(StmdeployError) as error:
        take(content, tmp_path, sizes)
    assert time.process_time() - begun < 5
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < 100 * 2**20
    return error.value.message


def test_a_bomb_of_one_and_a_half_gib_is_refused_even_if_it_says_so(tmp_path: Path) -> None:
    document, large = member("baseline.json", DOCUMENT), member("a", size=1536 * 2**20)
    content = gzip.compress(block(*document) + block(*large)) + zeros(1536)
    assert len(content) < 2_900_000
    assert "unpack to 1610612736" in refused_within_bounds(content, tmp_path, {"a": 1536 * 2**20})


def test_a_bomb_in_a_header_is_refused(tmp_path: Path) -> None:
    """tarfile reads an extended header whole, however long it says that it is."""
    content = gzip.compress(block(*member("x", type=tarfile.XHDTYPE, size=2**30))) + zeros(1024)
    assert "more than it says" in refused_within_bounds(content, tmp_path, {"a": 1})


def headers(kind: bytes, count: int) -> bytes:
    """So many empty members, numbered; tarfile would take seconds to write them."""
    header = bytearray(member("0" * 6, type=kind)[0].tobuf(tarfile.USTAR_FORMAT))
    checksum = int(header[148:154], 8) - sum(header[:6])
    made = bytearray()
    for number in range(count):
        header[:6] = b"%06d" % number
        header[148:154] = b"%06o" % (checksum + sum(header[:6]))
        made += header
    return bytes(made)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
def test_a_hundred_thousand_members_are_refused(tmp_path: Path, kind: bytes) -> None:
    content = gzip.compress(block(*member("baseline.json", DOCUMENT)) + headers(kind, 100_000))
    message = refused_within_bounds(content, tmp_path, {"a": 1})
    assert "unlisted" in message or "without end" in message


def test_another_first_file_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("results.db"))
    with pytest.raises(StmdeployError, match="does not begin with baseline"):
        take(buffer.getvalue(), tmp_path, {})


def test_a_document_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tar.gz").write_bytes(packed())
    assert main(["baseline", "show", str(tmp_path / "a.tar.gz")]) == 2
    assert "is no stmdeploy-baseline" in capsys.readouterr().err
    assert json.loads(DOCUMENT) == {}
