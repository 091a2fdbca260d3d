"""The entry point, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from contextlib import suppress

import typer

from stmdeploy.cli import baseline, hardware, results
from stmdeploy.cli.bound import bound
from stmdeploy.cli.check import check
from stmdeploy.cli.command import add_command
from stmdeploy.cli.console import ReaderGoneError, is_verbose, say
from stmdeploy.cli.count import count
from stmdeploy.cli.evaluate import evaluate
from stmdeploy.cli.export import export
from stmdeploy.cli.history import history
from stmdeploy.cli.inspect import inspect
from stmdeploy.cli.invariance import invariance
from stmdeploy.cli.list import list_
from stmdeploy.cli.profile import profile
from stmdeploy.cli.receptive_field import receptive_field
from stmdeploy.cli.recommend import recommend
from stmdeploy.cli.report import report
from stmdeploy.cli.sensitivity import sensitivity
from stmdeploy.cli.tune import tune
from stmdeploy.errors import ExitCode, StmdeployError

#: Exit codes by the shell's conventions: 128 + SIGINT, 128 + SIGPIPE, and EX_SOFTWARE.
INTERRUPTED, READER_GONE, CRASHED = 130, 141, 70
#: What a command's exit code says.
EXIT_CODES = {
    int(ExitCode.OK): "fine",
    int(ExitCode.REGRESSION): "`check` found a regression, or `history` a step to slower",
    int(ExitCode.BAD_INPUT): "bad input or usage: one line says what, where, and what to do",
    int(ExitCode.CANNOT_TELL): (
        "cannot tell: not enough data, or another machine; nothing that is certain to recommend"
    ),
    int(ExitCode.OUTPUTS_DIFFER): "outputs differ beyond the tolerance",
    int(ExitCode.WORKER_FAILED): (
        "a worker, a device, a node or a server failed; the other rows are there"
    ),
    CRASHED: "a defect of stmdeploy: the traceback is on stderr",
    INTERRUPTED: "interrupted (Ctrl-C, SIGTERM or SIGHUP); what was measured is kept",
    READER_GONE: "nobody reads stdout any more",
}
#: Errors of writing to a full disk or a closed stream.
_STREAM_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EPIPE, errno.EIO, errno.EBADF})

app = typer.Typer(
    name="stmdeploy",
    help="Deploy and profile the vision backbones of the unified architecture.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _reading_or_writing in (
    list_,
    count,
    export,
    inspect,
    profile,
    tune,
    evaluate,
    invariance,
    receptive_field,
    sensitivity,
    bound,
):
    add_command(app, _reading_or_writing)
app.add_typer(hardware.app, name="hardware")
app.add_typer(baseline.app, name="baseline")
for _judging in (check, history, report, recommend):
    add_command(app, _judging)
app.add_typer(results.app, name="results")


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", "-V", help="Print the version."),
) -> None:
    if version:
        from stmdeploy import __version__

        typer.echo(f"stmdeploy {__version__}")
        raise typer.Exit
    from stmdeploy.files.writing import remove_scratch

    remove_scratch()  # that killed runs left behind


def _fail(message: str, hint: str) -> None:
    say(f"stmdeploy: {message}{f'; {hint}' if hint else ''}")


def _refused(error: StmdeployError) -> int:
    """Says what an expected error says, and where it came from if the user wants to know all."""
    if is_verbose():
        _print_traceback(error)
    _fail(error.message, error.hint)
    return int(error.code)


def _command_of(error: Exception) -> str:
    """The command whose help tells what is right."""
    path = getattr(getattr(error, "ctx", None), "command_path", "") or "stmdeploy"
    return "stmdeploy" + path[len(path.split(" ", 1)[0]) :]


def _settle_streams() -> None:
    """Keeps streams that are closed or cannot show a character from ending a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the caller has closed it
            setattr(sys, name, _Closed() if name == "stdout" else open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # A character that an old terminal cannot show must not end a measurement.
            stream.reconfigure(errors="replace")


class _Closed(io.TextIOBase):
    """Stdout that nobody can read."""

    def write(self, _: str) -> int:
        raise BrokenPipeError

    def fileno(self) -> int:
        """What whoever is told that the pipe is broken wants to close."""
        return 1


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Expected errors print one line to stderr; an unexpected one keeps its traceback and has an exit
    code of its own (70), so that it cannot be taken for a verdict.
    """
    # A polite kill unwinds like Ctrl-C: finished rows stay, scratch folders go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    _settle_streams()
    try:
        code = app(arguments, standalone_mode=False)
    except StmdeployError as error:
        return _refused(error)
    except typer.TyperException as error:
        if message := error.format_message():
            _fail(message, f"see {_command_of(error)} --help")
        return int(ExitCode.BAD_INPUT)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as error:
        # Typer ends the process itself when it prints help into a closed pipe.
        gone = isinstance(error.__context__, BrokenPipeError)
        return READER_GONE if gone else int(error.code or 0)
    except ReaderGoneError:
        # The reader has gone (`| head`); keep the interpreter from complaining at exit.
        return READER_GONE
    except Exception as error:  # noqa: BLE001
        if told := _exhausted(error):
            _fail(*told)
            return int(ExitCode.WORKER_FAILED)
        _print_traceback(error)
        return CRASHED
    return code if isinstance(code, int) else int(ExitCode.OK)


def _exhausted(error: BaseException | None) -> tuple[str, str] | None:
    """What the system has run out of, and what to do; libraries wrap such errors in their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return "there are too many open files", "raise the limit: ulimit -n 1024"
        if isinstance(error, MemoryError):
            return "there is no more memory", "close other programs, or ask for less at a time"
        error = error.__cause__ or error.__context__
    return None


def _print_traceback(error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in _STREAM_ERRNOS and error.filename is None:
        return  # stderr itself has failed: there is nowhere to say so
    with suppress(OSError, ValueError):
        traceback.print_exception(error)


def run() -> None:
    """The console script.

    Where streams cannot be written to, it skips the interpreter's own exit, which would flush them
    and complain.
    """
    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os._exit(code or CRASHED)
    sys.exit(code)
