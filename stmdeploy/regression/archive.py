"""A packed baseline, unpacked as data: the files that its document lists, and nothing else.

Nothing is left to `tarfile`'s filters, whose gaps differ from Python to Python (CVE-2025-4517):
members are read one after the other from a stream that is bounded, and only plain files are taken.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stmdeploy.errors import StmdeployError
from stmdeploy.files import writable
from stmdeploy.reading import DOCUMENT_MIB, plain_path, printable

#: How files are named that hold a baseline.
ARCHIVES = (".tar", ".tar.gz", ".tgz")
_GZIP = b"\x1f\x8b"
_BYTES_PER_MIB = 2**20
_CHUNK_BYTES = 2**20
#: What headers, padding and names of folders may take, and how many folders there may be.
_SLACK_BYTES, _MOST_FOLDERS = 4 * _BYTES_PER_MIB, 1000
#: Weights hardly get smaller by packing, results by ten times; beyond this it is made to burst.
_MOST_RATIO, _SMALL_BYTES = 50, 64 * _BYTES_PER_MIB


class Archive:
    """An archive that is read from its beginning to its end, once."""

    def __init__(self, tar: tarfile.TarFile, stream: _Bounded, shown: str, hint: str) -> None:
        self._tar, self._stream = tar, stream
        self._shown, self._hint = shown, hint
        self._folders = 0

    def document(self, name: str) -> bytes:
        """The content of its first file, which must be of that name and may be 16 MiB long.

        Raises:
            StmdeployError: something else comes first.
        """
        member = self._next()
        if member is None or member[0] != name:
            raise self._refused(f"is no baseline: it does not begin with {name}")
        content = self._content(member[1]).read(DOCUMENT_MIB * _BYTES_PER_MIB + 1)
        if len(content) > DOCUMENT_MIB * _BYTES_PER_MIB:
            raise self._refused(f"has a {name} larger than {DOCUMENT_MIB} MiB")
        return content

    def take(self, sizes: Mapping[str, int], folder: Path) -> None:
        """Writes the files that follow into a folder; they must be those of `sizes`, each once.

        Raises:
            StmdeployError: a file is missing, comes twice, is not listed, has another size, or is
                a link, a device, or of a name that leads elsewhere.
        """
        whole = sum(sizes.values())
        if whole > max(_SMALL_BYTES, _MOST_RATIO * self._stream.packed_bytes):
            raise self._refused(f"says that {self._stream.packed_bytes} bytes unpack to {whole}")
        self._stream.allow(whole)
        missing = set(sizes)
        while (found := self._next()) is not None:
            name, member = found
            if name not in missing:
                twice = name in sizes
                raise self._refused(f"holds {name!r} {'twice' if twice else 'unlisted'}")
            if member.size != sizes[name]:
                raise self._refused(f"has {member.size} bytes of {name}, not {sizes[name]}")
            missing.remove(name)
            self._write(member, folder / name)
        if missing:
            raise self._refused(f"holds no {min(missing)}")

    def _write(self, member: tarfile.TarInfo, place: Path) -> None:
        content = self._content(member)
        with writable(place.parent), place.open("xb") as file:
            while chunk := content.read(_CHUNK_BYTES):
                file.write(chunk)

    def _next(self) -> tuple[str, tarfile.TarInfo] | None:
        """The next file and its name; folders are passed over."""
        while (member := self._tar.next()) is not None:
            # Of what was read, tarfile would keep every member.
            self._tar.members.clear()  # type: ignore[attr-defined]
            name = member.name.removeprefix("./")
            if member.isdir():
                self._folders += 1
                if self._folders > _MOST_FOLDERS:
                    raise self._refused("holds folders without end")
                continue
            if not member.isreg() or member.issparse():
                raise self._refused(f"holds {printable(name)[:100]!r}, which is no plain file")
            try:
                plain_path(name)
            except ValueError:
                raise self._refused(f"holds a file named {printable(name)[:100]!r}") from None
            return name, member
        return None

    def _content(self, member: tarfile.TarInfo) -> IO[bytes]:
        content = self._tar.extractfile(member)
        assert content is not None
        return content

    def _refused(self, reason: str) -> StmdeployError:
        return StmdeployError(f"{self._shown} {reason}", self._hint)


class _Bounded(io.RawIOBase):
    """A stream that gives no more bytes than it is allowed to."""

    def __init__(self, stream: IO[bytes], packed_bytes: int) -> None:
        self._stream = stream
        self.packed_bytes = packed_bytes
        self._left = DOCUMENT_MIB * _BYTES_PER_MIB + _SLACK_BYTES

    def allow(self, further: int) -> None:
        """So many bytes more."""
        self._left += further

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        if size < 0 or size > self._left:
            size = self._left + 1
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise tarfile.ReadError("it unpacks to more than it says")
        return content


@contextmanager
def unpack(file: IO[bytes], shown: str, hint: str) -> Iterator[Archive]:
    """Opens an archive, packed by gzip or not packed.

    Args:
        file: at its beginning.
        shown, hint: the archive and the remedy, as errors say them.

    Raises:
        StmdeployError: it is none, or cut short, or damaged.
    """
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    try:
        plain = gzip.GzipFile(fileobj=file, mode="rb") if packed else file
        stream = _Bounded(plain, size)  # type: ignore[arg-type]
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            yield Archive(tar, stream, shown, hint)
    except StmdeployError:
        raise
    except (
        tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError, MemoryError,
        RecursionError,
    ) as error:  # fmt: skip
        reason = printable(str(error))[:100]
        raise StmdeployError(f"{shown} is no baseline, or is cut short: {reason}", hint) from error
