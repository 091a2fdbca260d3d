"""From a dataclass of options to a command: every option is declared once, with its type.

A command is a function of one frozen dataclass, whose fields are made by `option`, `many` and
`argument`. A flag is spelled as its field. Several `Words` or `Numbers` are given with commas, by
repeating the flag, or both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from stmdeploy.cli.console import set_talk
from stmdeploy.cli.examples import EXAMPLES
from stmdeploy.errors import StmdeployError

Options = TypeVar("Options")
Words = tuple[str, ...]
Numbers = tuple[int, ...]
#: The default of an option or argument that must be given.
REQUIRED: Any = MISSING
_FLAG, _INFO = "flag", "info"
#: What every command takes: name, short flag, and help.
TALK = (
    ("verbose", "-v", "Say every step in a line of its own, and where an error came from."),
    ("quiet", "-q", "Say nothing beside the results but warnings and errors."),
)


def option(panel: str, text: str, default: Any = None, flag: str = "", **more: Any) -> Any:
    """A field that is an option.

    Args:
        panel: the heading in ``--help`` that it stands under.
        text: its help, with its unit.
        flag: how it is spelled, if not as its field.
        more: further arguments of `typer.Option`.
    """
    info = {"help": _plain(text), "rich_help_panel": panel, **more}
    return field(default=default, metadata={_FLAG: flag, _INFO: info})


def many(panel: str, text: str) -> Any:
    """A field that is an option of `Words` or `Numbers`; empty by default."""
    return option(panel, text, ())


def argument(text: str, default: Any = None) -> Any:
    """A field that is an argument."""
    return field(default=default, metadata={_INFO: {"help": _plain(text)}})


def _plain(text: str) -> str:
    """Help in which ``[default: ...]`` is text, not markup."""
    return text.replace("[", "\\[")


def flag_of(declared: Field[Any]) -> str:
    """How an option is spelled; empty for an argument."""
    if _FLAG not in declared.metadata:
        return ""
    return declared.metadata[_FLAG] or f"--{declared.name.replace('_', '-')}"


def is_list(kind: Any) -> bool:
    """Whether a field takes several values."""
    return get_origin(kind) is tuple


def add_command(app: typer.Typer, function: Callable[[Options], None]) -> None:
    """Adds a command to an application: a function whose one argument is a dataclass of options."""
    kind = get_type_hints(function)["options"]
    declared, types = {one.name: one for one in fields(kind)}, get_type_hints(kind)

    def command(verbose: bool, quiet: bool, **given: Any) -> None:
        set_talk(quiet=quiet, verbose=verbose)
        parsed = {key: _parsed(declared[key], types[key], value) for key, value in given.items()}
        function(kind(**parsed))

    parameters = [_parameter(one, types[one.name]) for one in declared.values()]
    parameters += [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[
                bool, typer.Option(f"--{name}", short, help=text, rich_help_panel="Output")
            ],
        )
        for name, short, text in TALK
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = function.__doc__
    command.options = kind  # type: ignore[attr-defined]  # for the reference
    word, path = _name_of(function)
    told = ["Examples:", *(f"  stmdeploy {one}" for one in EXAMPLES.get(path, ()))]
    app.command(word, epilog="\n\n".join(map(_plain, told)))(command)


def _name_of(function: Callable[..., object]) -> tuple[str, str]:
    """The word of a command, and with the word of its group, whose file it stands in."""
    word, group = (
        name.strip("_").replace("_", "-")
        for name in (function.__name__, function.__module__.rpartition(".")[2])
    )
    return word, word if word == group else f"{group} {word}"


def _parameter(declared: Field[Any], kind: Any) -> inspect.Parameter:
    """A field as Typer is told of it."""
    default = inspect.Parameter.empty if declared.default is MISSING else declared.default
    flag, info = flag_of(declared), declared.metadata[_INFO]
    if is_list(kind):
        (item, *_) = get_args(kind)
        kind = list[str] | None if flag else list[item]  # type: ignore[valid-type]
        default = None if flag else default
    told = typer.Option(flag, **info) if flag else typer.Argument(**info)
    annotation: Any = Annotated[kind, told]
    return inspect.Parameter(
        declared.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _parsed(declared: Field[Any], kind: Any, value: Any) -> Any:
    """Typer's value for a field, in the field's own type."""
    if not is_list(kind):
        return value
    if not (flag := flag_of(declared)):
        return tuple(value or ())
    return () if value is None else parse_list(kind, value, flag)


def parse_list(kind: Any, values: list[str], flag: str) -> tuple[Any, ...]:
    """``["halo,dcn", "swin"]`` -> ``("halo", "dcn", "swin")``; numbers as numbers.

    Args:
        kind: `Words` or `Numbers`.
        flag: what errors name.

    Raises:
        StmdeployError: there is no value, or a number is not a whole one.
    """
    parts = [part.strip() for value in values for part in value.split(",")]
    words = tuple(part for part in parts if part)
    if not words:
        raise StmdeployError(f"{flag} is empty", "give a value, or leave it out")
    if kind == Words:
        return tuple(dict.fromkeys(words))
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise StmdeployError(
            f"{flag} {','.join(values)} is not understood", "write whole numbers, such as 1,8"
        ) from None
