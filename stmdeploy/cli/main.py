"""The entry point, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback

import typer

from stmdeploy.cli import (
    baseline,
    bound,
    check,
    commands,
    evaluate,
    export,
    hardware,
    profile,
    recommend,
    report,
    results,
)
from stmdeploy.cli.console import ReaderGoneError
from stmdeploy.errors import ExitCode, StmdeployError

#: Exit codes that the shell knows: a signal's number added to 128, and EX_SOFTWARE.
INTERRUPTED, READER_GONE, CRASHED = 130, 141, 70

app = typer.Typer(
    name="stmdeploy",
    help="Deploy and profile the vision backbones of the unified architecture.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(commands.list_)
app.command("count")(commands.count)
app.command("export")(export.export)
app.command("inspect")(export.inspect)
app.command("profile")(profile.profile)
app.command("evaluate")(evaluate.evaluate)
app.command("bound")(bound.bound)
app.add_typer(hardware.app, name="hardware")
app.add_typer(baseline.app, name="baseline")
app.command("check")(check.check)
app.command("report")(report.report)
app.command("recommend")(recommend.recommend)
app.add_typer(results.app, name="results")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        from stmdeploy import __version__

        typer.echo(f"stmdeploy {__version__}")
        raise typer.Exit


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _fail(message: str, hint: str) -> None:
    tail = f"; {_one_line(hint)}" if hint else ""
    typer.echo(f"stmdeploy: {_one_line(message)}{tail}", err=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Expected errors print one line to stderr; an unexpected one keeps its traceback, and ends
    with a code of its own, so that it cannot be taken for a verdict.
    """
    # A polite kill unwinds like Ctrl-C: finished rows stay, scratch folders go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Rules and accents that an old terminal cannot show must not end a measurement.
            stream.reconfigure(errors="replace")
    try:
        code = app(arguments, standalone_mode=False)
    except StmdeployError as error:
        _fail(error.message, error.hint)
        return int(error.code)
    except typer.TyperException as error:
        if message := error.format_message():
            _fail(message, "see stmdeploy --help")
        return int(ExitCode.BAD_INPUT)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as error:
        # Typer ends the process itself when it prints help into a closed pipe.
        gone = isinstance(error.__context__, BrokenPipeError)
        return READER_GONE if gone else int(error.code or 0)
    except ReaderGoneError:
        # The reader has gone (`| head`); keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return CRASHED
    return code if isinstance(code, int) else int(ExitCode.OK)


def run() -> None:
    """The console script."""
    sys.exit(main())
