"""Writes the reference from the code: commands, fields, sweep files, promises, exit codes."""

from __future__ import annotations

import json
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import typer
from pydantic import BaseModel

from stmdeploy.cli.command import flag_of, is_list
from stmdeploy.cli.examples import EXAMPLES
from stmdeploy.cli.main import EXIT_CODES, app
from stmdeploy.cli.options import SweepOptions
from stmdeploy.report.escaping import markdown_text
from stmdeploy.report.figures import write_figures
from stmdeploy.report.profile_table import profile_table
from stmdeploy.schema.row import Row
from stmdeploy.schema.tuned import Tuned

RESULTS = Path(__file__).parents[1] / "results"
#: What is stored and printed, by the modules that say it.
DOCUMENTS = {
    "Rows": (
        "What `profile --json`, `results export` and the store hold of a row. `--json` and CSV "
        "flatten it: the fields of its measurement stand beside its own.",
        ("stmdeploy.schema.row:Row", "stmdeploy.schema.measurement:Measurement",
         "stmdeploy.schema.measurement:ScenarioResult", "stmdeploy.schema.hardware:Environment",
         "stmdeploy.schema.hardware:Conditions", "stmdeploy.schema.hardware:Bound",
         "stmdeploy.schema.hardware:Peaks", "stmdeploy.schema.row:RowContrast",
         "stmdeploy.schema.row:Try"),
    ),
    "Processes": (
        "Raw samples, one for each process of a row.",
        ("stmdeploy.schema.measurement:ProcessRun",),
    ),
    "Manifests": (
        "The JSON file beside every artifact.",
        ("stmdeploy.schema.manifest:Manifest", "stmdeploy.schema.manifest:ModelInfo",
         "stmdeploy.schema.manifest:WeightsInfo", "stmdeploy.schema.manifest:Verification",
         "stmdeploy.schema.manifest:Fidelity", "stmdeploy.schema.manifest:TensorInfo",
         "stmdeploy.schema.manifest:FileInfo", "stmdeploy.schema.manifest:EngineInfo",
         "stmdeploy.schema.manifest:Calibration"),
    ),
    "Accuracy and robustness": (
        "What `evaluate`, `invariance`, `sensitivity` and `receptive-field` give.",
        ("stmdeploy.schema.evaluation:Evaluation", "stmdeploy.schema.invariance:Invariance",
         "stmdeploy.schema.mixed:Sensitivity", "stmdeploy.schema.mixed:PartCost",
         "stmdeploy.schema.mixed:Kept", "stmdeploy.schema.mixed:Choice",
         "stmdeploy.schema.receptive_field:ReceptiveField"),
    ),
    "Tuning": (
        "What `tune --json` gives.",
        ("stmdeploy.schema.tuned:Tuned", "stmdeploy.schema.tuned:TunedCandidate",
         "stmdeploy.schema.tuned:LimitTest", "stmdeploy.schema.mixed:RatioTo"),
    ),
    "Checks": (
        "What `check --json` gives.",
        ("stmdeploy.check.outcome:CheckResult", "stmdeploy.check.outcome:CheckedRow",
         "stmdeploy.check.outcome:Gate"),
    ),
}  # fmt: skip


def write_reference(folder: Path) -> None:
    """Writes all pages into a folder."""
    folder.mkdir(exist_ok=True)
    pages = {
        "commands": commands(),
        "fields": documents(),
        "sweep-file": sweep_file(),
        "promises": promised(),
        "exit-codes": exit_codes(),
        "results": results(folder),
    }
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text("utf-8") != text:  # else all is built anew
            path.write_text(text, "utf-8")


def commands() -> str:
    """Every command with its arguments and options."""
    lines = ["# Commands", "", "`stmdeploy COMMAND --help` says the same. Every command that",
             "prints results takes `--json`; every command takes `--verbose` (`-v`), which says",
             "every step in a line of its own and where an error came from, and `--quiet` (`-q`),",
             "which says nothing beside results but warnings and errors.", ""]  # fmt: skip
    for name, function in leaves(app, "stmdeploy"):
        lines += [f"## {name}", "", _plain(function.__doc__ or ""), ""]
        examples = EXAMPLES.get(name.removeprefix("stmdeploy "), ())
        lines += ["```console", *(f"$ stmdeploy {one}" for one in examples), "```", ""]
        kind = function.options
        types_of = get_type_hints(kind)
        panels: dict[str, list[tuple[str, str]]] = {}
        for field in fields(kind):
            info = field.metadata["info"]
            flag = flag_of(field)
            panel = info.get("rich_help_panel", "Option") if flag else "Argument"
            named = flag + _value(types_of[field.name]) if flag else field.name.upper()
            meaning = markdown_text(_plain(info["help"])) + _default(field)
            panels.setdefault(panel, []).append((f"`{named}`", meaning))
        for panel in sorted(panels, key=lambda one: one != "Argument"):
            lines += [*_table((panel, "Meaning"), panels[panel]), ""]
    return "\n".join(lines)


def leaves(group: typer.Typer, name: str) -> Iterator[tuple[str, Any]]:
    """Every command, by its whole name, and the function behind it."""
    for one in group.registered_commands:
        yield f"{name} {one.name}", one.callback
    for other in group.registered_groups:
        assert other.typer_instance is not None
        yield from leaves(other.typer_instance, f"{name} {other.name}")


def _value(kind: Any) -> str:
    """What an option takes, as help shows it; nothing for a switch."""
    if is_list(kind):
        return " VALUE,..."
    plain = [one for one in (typing.get_args(kind) or (kind,)) if one is not type(None)]
    if plain == [bool]:
        return ""
    if all(isinstance(one, str) for one in plain):
        return f" {'|'.join(plain)}"
    return f" {str(getattr(plain[0], '__name__', plain[0])).upper()}"


def _default(field: Any) -> str:
    shown, told = field.default, "[default" in field.metadata["info"]["help"]
    if told or isinstance(shown, bool) or not isinstance(shown, (int, float, str, Path)):
        return ""
    return f" [default: {shown}]" if str(shown) else ""


def _plain(text: str) -> str:
    return " ".join(text.replace("\\[", "[").split())


def documents() -> str:
    """Every field of what is stored and printed."""
    lines = ["# Fields", "", "Units are in the names. Every document is refused if it has a field",
             "that is not listed.", ""]  # fmt: skip
    for title, (about, names) in DOCUMENTS.items():
        lines += [f"## {title}", "", about, ""]
        for name in names:
            module, _, kind = name.partition(":")
            lines += _document(getattr(import_module(module), kind))
    return "\n".join(lines)


def _document(kind: type[BaseModel]) -> list[str]:
    rows = [
        (f"`{name}`", f"`{_type(field.annotation)}`", markdown_text(field.description or ""))
        for name, field in kind.model_fields.items()
    ]
    about = (kind.__doc__ or "").strip()
    return [f"### {kind.__name__}", "", about, "", *_table(("Field", "Type", "Meaning"), rows), ""]


def _type(kind: Any) -> str:
    """A type in few words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(one) for one in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "table"
    if kind is type(None):
        return "null"
    return str(getattr(kind, "__name__", kind))


def sweep_file() -> str:
    """The keys of a sweep file."""
    known = get_type_hints(SweepOptions)
    rows = []
    for field in fields(SweepOptions):
        several = " or list" if is_list(known[field.name]) else ""
        text = markdown_text(_plain(field.metadata["info"]["help"]))
        rows.append((f"`{field.name}`", f"`{flag_of(field)}`{several}", text))
    return "\n".join(
        [
            "# Sweep files",
            "",
            "`profile --sweep FILE.toml` and `baseline create --sweep FILE.toml` take their flags",
            "from a file; so does `--config`, for what `stmdeploy tune` wrote. Where a list fits,",
            "a single value does too. Flags on the command line override the file.",
            "",
            *_table(("Key", "As", "Meaning"), rows),
            "",
        ]
    )


def promised() -> str:
    """What works with what."""
    from stmdeploy.cli.listings import promised as listed
    from stmdeploy.spec.model import TASKS

    lines = ["# Promises", "", "`stmdeploy list promises` prints these tables; `--json` says it",
             "for every scale and lowering.", ""]  # fmt: skip
    for task in TASKS:
        _, table = listed(task)
        lines += [f"## {task.capitalize()}", "", table.markdown(), ""]
    return "\n".join(lines)


def exit_codes() -> str:
    """What the exit code of a command says."""
    rows = [(f"{code}", meaning) for code, meaning in EXIT_CODES.items()]
    return "\n".join(["# Exit codes", "", *_table(("Code", "Meaning"), rows), ""])


def results(pictures: Path) -> str:
    """What was measured on machines at hand, from the files in the folder ``results``.

    Args:
        pictures: folder that plots are drawn into.
    """
    lines = ["# Results", "", "From the folder `results` of the repository, whose README says how",
             "to add a machine. Compare rows of one table; tables of different machines and days",
             "tell what was measured there, and then.", ""]  # fmt: skip
    for folder in sorted(path.parent for path in RESULTS.glob("*/machine.toml")):
        about = tomllib.loads((folder / "machine.toml").read_text("utf-8"))
        lines += [f"## {about['title']}", "", f"{about['remarks']} ({about['measured_by']})", ""]
        for path in sorted(folder.glob("*.json")):
            table = json.loads(path.read_text("utf-8"))
            if path.name == "tune.json":
                found = [Tuned.model_validate(one) for one in table["tuned"]]
                lines += ["### Tuned", "", *_tuned(found), ""]
            else:
                rows = tuple(Row.model_validate(row) for row in table["rows"])
                days = sorted({row.started_utc[:10] for row in rows})
                versions = ", ".join(sorted({row.stmdeploy_version for row in rows}))
                lines += [f"### {path.stem.replace('-', ' ').capitalize()}", "",
                          f"{', '.join(days)}, stmdeploy {versions}.", "",
                          *_pictures(rows, f"{folder.name}-{path.stem}", pictures),
                          profile_table(rows).markdown(), ""]  # fmt: skip
    return "\n".join(lines)


def _pictures(rows: Sequence[Row], name: str, folder: Path) -> list[str]:
    """Plots of some rows, drawn into a folder, as lines of a page."""
    place, lines = folder / name, []
    if not place.is_dir():  # else all is built anew
        place.mkdir()
        write_figures(rows, place)
    for drawn in sorted(place.glob("*.svg")):
        words = drawn.stem.replace("-", " over ")
        lines += [f"![{words}]({name}/{drawn.name})", ""]
    return lines


def _tuned(found: Sequence[Tuned]) -> list[str]:
    """A line for every race."""
    cells = []
    for one in found:
        best = one.named(one.best)
        over = {ratio.of: 1 / ratio.ratio for ratio in best.ratios}
        limit = "exact" if one.max_error is None else f"error at most {one.max_error:g}"
        cells.append(
            (one.model, str(best.batch), limit, best.runtime, best.precision, best.lowering,
             f"{over.get(one.reference, 1):.2f}", f"{over.get(one.usual, 1):.2f}",
             one.started_utc[:10], one.stmdeploy_version)
        )  # fmt: skip
    headers = ("backbone", "batch", "limit", "runtime", "precision", "lowering",
               "x torch.onnx", "x usual", "day", "stmdeploy")  # fmt: skip
    return _table(headers, cells)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headers, [":---"] * len(headers), *rows]
    return ["| " + " | ".join(one.replace("\n", " ") for one in line) + " |" for line in lines]
