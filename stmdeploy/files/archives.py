"""Unpacks a baseline's archive as data: the files that its document lists, and nothing else.

Nothing is left to `tarfile`'s filters, whose gaps differ from Python to Python (CVE-2025-4517):
members are read one after the other from a bounded stream, and only plain files are taken.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import BYTES_PER_MIB, DOCUMENT_MIB, plain_path, printable
from stmdeploy.files.writing import writable

#: How names of files that hold a baseline end.
ARCHIVES = (".tar", ".tar.gz", ".tgz")
_GZIP = b"\x1f\x8b"
#: Bytes that headers, padding and folders' names may take, and the most folders there may be.
_SLACK_BYTES, _MOST_FOLDERS = 4 * BYTES_PER_MIB, 1000
#: Packing hardly shrinks weights, and results tenfold; a higher ratio means an archive bomb. Small
#: archives may unpack to so many bytes whatever the ratio.
_MOST_RATIO, _SMALL_BYTES = 50, 64 * BYTES_PER_MIB


class Archive:
    """An archive that is read from its beginning to its end, once."""

    def __init__(self, tar: tarfile.TarFile, stream: _Bounded, shown: str, hint: str) -> None:
        self._tar, self._stream = tar, stream
        self._shown, self._hint = shown, hint
        self._files = self._plain_files()

    def document(self, name: str) -> bytes:
        """The content of the first file, which must have this name and at most 16 MiB.

        Raises:
            StmdeployError: another file comes first, or it is larger.
        """
        found, size, content = next(self._files, ("", 0, io.BytesIO()))
        if found != name:
            raise self._refused(f"is no baseline: it does not begin with {name}")
        if size > DOCUMENT_MIB * BYTES_PER_MIB:
            raise self._refused(f"has a {name} larger than {DOCUMENT_MIB} MiB")
        return content.read()

    def take(self, sizes: Mapping[str, int], folder: Path) -> None:
        """Writes the files that follow into a folder; they must be those of `sizes`, each once.

        Raises:
            StmdeployError: a file is missing, comes twice, is not listed, has another size, is a
                link or a device, or has a name that leads elsewhere.
        """
        whole = sum(sizes.values())
        if whole > max(_SMALL_BYTES, _MOST_RATIO * self._stream.packed_bytes):
            raise self._refused(f"says that {self._stream.packed_bytes} bytes unpack to {whole}")
        self._stream.allow(whole)
        missing = set(sizes)
        for name, size, content in self._files:
            if name not in missing:
                raise self._refused(f"holds {name!r} {'twice' if name in sizes else 'unlisted'}")
            if size != sizes[name]:
                raise self._refused(f"has {size} bytes of {name}, not {sizes[name]}")
            missing.remove(name)
            place = folder / name
            with writable(place.parent), place.open("xb") as file:
                shutil.copyfileobj(content, file)
        if missing:
            raise self._refused(f"holds no {min(missing)}")

    def _plain_files(self) -> Iterator[tuple[str, int, IO[bytes]]]:
        """The name, size in bytes and content of every file; folders are passed over."""
        folders = 0
        while (member := self._tar.next()) is not None:
            # Of what was read, tarfile would keep every member.
            self._tar.members.clear()  # type: ignore[attr-defined]
            name = member.name.removeprefix("./")
            if member.isdir():
                folders += 1
                if folders > _MOST_FOLDERS:
                    raise self._refused("holds folders without end")
                continue
            content = self._tar.extractfile(member) if member.isreg() else None
            if content is None or member.issparse():
                raise self._refused(f"holds {printable(name)[:100]!r}, which is no plain file")
            try:
                plain_path(name)
            except ValueError:
                raise self._refused(f"holds a file named {printable(name)[:100]!r}") from None
            yield name, member.size, content

    def _refused(self, reason: str) -> StmdeployError:
        return StmdeployError(f"{self._shown} {reason}", self._hint)


class _Bounded(io.RawIOBase):
    """A stream that gives no more bytes than it is allowed to."""

    def __init__(self, stream: IO[bytes], packed_bytes: int) -> None:
        self._stream, self.packed_bytes = stream, packed_bytes
        self._left = DOCUMENT_MIB * BYTES_PER_MIB + _SLACK_BYTES

    def allow(self, further: int) -> None:
        """Allows `further` bytes more."""
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
        file: a file at its beginning.
        shown, hint: how errors name the archive, and the remedy.

    Raises:
        StmdeployError: it is not an archive, or is cut short or damaged.
    """
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    try:
        plain = gzip.GzipFile(fileobj=file, mode="rb") if packed else file
        stream = _Bounded(plain, size)  # type: ignore[arg-type]
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            yield Archive(tar, stream, shown, hint)
    except (
        tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError, MemoryError,
        RecursionError,
    ) as error:  # fmt: skip
        reason = printable(str(error))[:100]
        raise StmdeployError(f"{shown} is no baseline, or is cut short: {reason}", hint) from error
