"""The one reader of files from outside: as data, bounded, every defect a one-line error.

It opens only regular files, reads a limited number of bytes, and follows no name that a file holds.
A defect is a `StmdeployError` that says which file, and where in it.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stmdeploy.errors import StmdeployError

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")

BYTES_PER_MIB = 2**20
#: Limit of manifests and baselines: with graphs and raw figures, large ones take 1 MiB.
DOCUMENT_MIB = 16
#: Limit of what people write by hand: sweeps, policies, profiles.
_SETTINGS_MIB = 1
#: Deeper nesting than any document of ours has.
_DEPTH = 40
#: JSON's numbers have no end; every figure here fits into a signed 64-bit integer.
_LARGEST = 2**63 - 1
_LONGEST_NAME = 255
#: Characters of a place or a reason that an error line has room for.
_LONGEST_SHOWN = 200


def read_bytes(path: Path, what: str, hint: str, at_most_mib: int) -> bytes:
    """The content of a regular file of bounded size; links to such a file are followed.

    Args:
        what: how errors begin, such as ``--sweep``; may be empty.

    Raises:
        StmdeployError: it is missing, unreadable or too large, or is a pipe, device or folder.
    """
    where, at_most = printable(f"{what} {path}".strip()), at_most_mib * BYTES_PER_MIB
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to waits for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # the latter of a name with a NUL in it
        reason = getattr(error, "strerror", None) or str(error)
        raise StmdeployError(f"{where}: {reason.lower()}", hint) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StmdeployError(f"{where} is no regular file", hint)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(at_most + 1)
    if len(content) > at_most:
        raise StmdeployError(f"{where} is larger than {at_most_mib} MiB", hint)
    return content


def read_toml(path: Path, what: str, hint: str) -> dict[str, Any]:
    """The table in a TOML file of at most 1 MiB.

    Raises:
        StmdeployError: as `read_bytes` and `check_bounds`; or it is not TOML.
    """
    where = printable(f"{what} {path}".strip())
    try:
        table = tomllib.loads(read_bytes(path, what, hint, _SETTINGS_MIB).decode())
    except (RecursionError, ValueError) as error:
        raise StmdeployError(f"{where} is not TOML: {_first_line(error)}", hint) from error
    check_bounds(table, where, hint)
    return table


def parse_json(content: bytes | str, where: str, hint: str) -> Any:
    """A JSON document of bounded depth, whose numbers are finite and fit into 64 bits.

    Args:
        where: how errors name the document.

    Raises:
        StmdeployError: it is not JSON, or as `check_bounds`.
    """
    from pydantic_core import from_json

    try:
        found = from_json(content, allow_inf_nan=False, cache_strings="keys")
    except (ValueError, RecursionError) as error:
        raise StmdeployError(f"{where} is not JSON: {_first_line(error)}", hint) from error
    check_bounds(found, where, hint)
    return found


def parse_document(
    validate: Callable[[bytes | str], T], content: bytes | str, where: str, hint: str
) -> T:
    """A document of some type, parsed from JSON.

    Args:
        validate: such as `BaseModel.model_validate_json` or `TypeAdapter.validate_json`.
        where: how errors name the document.

    Raises:
        StmdeployError: as `parse_json`; or a field is wrong, which the message names.
    """
    from pydantic import ValidationError

    parse_json(content, where, hint)
    try:
        return validate(content)
    except ValidationError as error:
        raise StmdeployError(f"{where} is damaged {first_problem(error)}", hint) from error
    except StmdeployError as error:  # a specification that checks itself
        raise StmdeployError(f"{where} is damaged: {error.message}", hint) from error
    except (ValueError, RecursionError, OverflowError) as error:
        raise StmdeployError(f"{where} is damaged: {_first_line(error)}", hint) from error


def first_problem(error: ValidationError) -> str:
    """The first defect of a document and its place, as ``at rows.0.name: field required``."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))[:_LONGEST_SHOWN]
    told = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    return f"{f'at {printable(place)}' if place else 'as a whole'}: {printable(told)}"


def check_bounds(value: Any, where: str, hint: str, depth: int = 0) -> None:
    """Raises StmdeployError for nesting deeper than 40 levels or whole numbers beyond 64 bits."""
    if depth > _DEPTH:
        raise StmdeployError(f"{where} is nested deeper than {_DEPTH} levels", hint)
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise StmdeployError(f"{where} holds a number beyond 64 bits", hint)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        check_bounds(part, where, hint, depth + 1)


def plain_name(name: str) -> str:
    """A file's name from a manifest or an archive, checked to name no folder.

    Raises:
        ValueError: it is empty, too long or hidden, or holds separators or control characters.
    """
    sound = 0 < len(name) <= _LONGEST_NAME and name == printable(name)
    if not sound or name.startswith(".") or any(mark in name for mark in "/\\:"):
        raise ValueError("not the plain name of a file")
    return name


def plain_path(text: str) -> str:
    """A relative path, checked to lead nowhere but down.

    Raises:
        ValueError: a part of it is no `plain_name`.
    """
    for part in text.split("/"):
        plain_name(part)
    return text


def plain_text(text: str) -> str:
    """A name for people to read, checked.

    Raises:
        ValueError: it is too long, or holds control characters.
    """
    if len(text) > _LONGEST_NAME or text != printable(text):
        raise ValueError("not a plain name: too long, or with control characters")
    return text


def printable(text: str) -> str:
    """Text without characters that move the cursor, break the line or turn its direction."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def one_line(text: str) -> str:
    """Text on one line, without characters that no terminal shows."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _first_line(error: Exception) -> str:
    return printable((str(error).splitlines() or [""])[0])[:_LONGEST_SHOWN]
