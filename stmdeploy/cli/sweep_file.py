"""A TOML file that describes a sweep: its keys are the flags of ``profile`` without dashes.

As in ``image_size = [224, 448]``; where several values fit, a single one does too. A flag on the
command line overrides the file.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from stmdeploy.cli.command import flag_of, is_list, parse_list
from stmdeploy.cli.options import SweepFileOption, SweepOptions
from stmdeploy.cli.tuned_file import TUNED
from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.files.reading import printable, read_toml
from stmdeploy.plugins.trust import Wish, refuse_wishes

#: Keys that make the command do more than measure a backbone of the catalogue.
_WISHES = {
    "model": "to run Python code",
    "python": "to start a program",
    "checkpoint": "to read or fetch a checkpoint",
    "calibration": "to read images of a folder",
    "timing_cache_file": "to read and write a file",
}


def file_of_flags(options: SweepFileOption) -> tuple[Path | None, str]:
    """The file of flags that is given, if one is, and the flag that names it.

    Raises:
        StmdeployError: two are given.
    """
    if options.sweep is not None and options.config is not None:
        raise StmdeployError("--sweep and --config exclude each other", "give one of them")
    return (options.config, "--config") if options.config else (options.sweep, "--sweep")


def with_file(
    options: SweepOptions, path: Path | None, flag: str = "--sweep", *, trust: bool
) -> SweepOptions:
    """The options, completed by what the file says of those not given.

    Raises:
        StmdeployError: as `read_options`; or the file names a program, an address or a path to
            use, and is not trusted.
    """
    if path is None:
        return options
    read, nothing = read_options(path, flag), SweepOptions()
    given = {
        f.name: value
        for f in fields(options)
        if (value := getattr(options, f.name)) != getattr(nothing, f.name)
    }
    used, flags = replace(read, **given), {one.name: flag_of(one) for one in fields(options)}
    wishes = [
        Wish(would, ", ".join(value) if isinstance(value, tuple) else str(value), flags[name])
        for name, would in _WISHES.items()
        if (value := getattr(used, name)) and name not in given
    ]
    refuse_wishes(wishes, f"{flag} {path}", trust=trust, has_flags=True)
    return used


def read_options(path: Path, flag: str = "--sweep") -> SweepOptions:
    """The options in a TOML file.

    Raises:
        StmdeployError: there is no such file, it is not TOML, has an unknown key, or a value of
            the wrong type.
    """
    table = read_toml(path, flag, "give a TOML file of flags, such as batch = [1, 8]")
    known = get_type_hints(SweepOptions)
    values = {}
    for key, value in table.items():
        if key == TUNED:
            continue
        name = key.replace("-", "_")
        if name not in known:
            shown = printable(key)[:60]
            raise StmdeployError(f"{path}: unknown key {shown!r}", nearest(name[:60], known))
        values[name] = _as_kind(known[name], value, f"{path}: {key}")
    return SweepOptions(**values)


def _as_kind(kind: Any, value: Any, where: str) -> Any:
    """A TOML value as what a flag takes."""
    items = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and text != printable(text) for text in items):
        raise StmdeployError(
            f"{where} holds control characters", "write the value as on the command line"
        )
    if is_list(kind):
        if all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in items):
            return parse_list(kind, [str(item) for item in items], where)
    else:
        with suppress(ValidationError):  # a path in TOML is a string, which "strict" would refuse
            return TypeAdapter(kind).validate_python(value, strict=kind != Path | None)
    shown = printable(repr(value))[:60]
    raise StmdeployError(
        f"{where} = {shown} is not understood", "write the value as on the command line"
    )
