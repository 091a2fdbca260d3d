"""`check`: baseline and candidate side by side, judged."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stmdeploy.cli import console
from stmdeploy.cli.command import REQUIRED, Numbers, Words, argument, flag_of, many, option
from stmdeploy.cli.options import (
    MEASURING,
    OUTPUT,
    SWEEP,
    JsonOption,
    SweepOptions,
    TaskOption,
    TrustOption,
    part_of,
)
from stmdeploy.cli.outside import InputOption
from stmdeploy.errors import StmdeployError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stmdeploy.check.outcome import CheckResult
    from stmdeploy.check.policy import Policy
    from stmdeploy.plugins.progress import Progress
    from stmdeploy.spec.sweep import SweepSpec


@dataclass(frozen=True, kw_only=True)
class FormatOptions:
    """Files that a result is written to: a field for each of `writers`."""

    markdown: Path | None = option(OUTPUT, "Write the table as Markdown to this file.")
    junit: Path | None = option(OUTPUT, "Write JUnit XML to this file.")
    html: Path | None = option(OUTPUT, "Write a page with the distributions to this file.")
    bencher: Path | None = option(OUTPUT, "Write Bencher Metric Format to this file.")
    smaller_is_better: Path | None = option(
        OUTPUT, "Write latencies for github-action-benchmark to this file."
    )
    bigger_is_better: Path | None = option(
        OUTPUT, "Write throughputs for github-action-benchmark to this file."
    )


@dataclass(frozen=True, kw_only=True)
class FilesOptions(InputOption):
    """How two files are run."""

    runtime: Words = many(
        SWEEP, "Two files: runtimes that run both. [default: the usual one of such files]"
    )
    precision: Words = many(SWEEP, "Two files: precisions to compute in. [default: of each file]")
    batch: Numbers = many(SWEEP, "Two files: images per inference. [default: 1, or the files' own]")
    threads: Numbers = many(SWEEP, "Two files: CPU threads of one operator. [default: all]")
    gpu: Words = many(SWEEP, "Two files: run them on this GPU.")


@dataclass(frozen=True, kw_only=True)
class CheckOptions(JsonOption, TrustOption, TaskOption, FormatOptions, FilesOptions):
    """What is compared, and what is allowed."""

    baseline: Path = argument(
        "Baseline that `stmdeploy baseline create` wrote; or a model that you have, such as "
        "old.onnx, to compare CANDIDATE with.",
        REQUIRED,
    )
    candidate: Path | None = argument(
        "Artifact, folder of artifacts, or another baseline; for a file, another file. [default: "
        "the baseline's models, exported again]",
    )
    baseline_python: str | None = option(
        SWEEP,
        "Python interpreter that runs the baseline. Without CANDIDATE, both sides run the "
        "baseline's artifacts, which checks the runtime. [default: this one]",
    )
    candidate_python: str | None = option(
        SWEEP, "Python interpreter that runs the candidate. [default: this one]"
    )
    stored: bool = option(
        SWEEP, "Compare with the baseline's stored figures; only on the same machine.", False
    )
    threshold_percent: float | None = option(
        MEASURING, "Slowdown in per cent beyond which a row is a regression. [default: 5]"
    )
    budget_s: float | None = option(
        MEASURING, "Measuring time of a row in seconds, both sides together. [default: 60]"
    )
    cannot_tell: str | None = option(
        MEASURING, "How a check that cannot tell ends: exit-3, fail or pass. [default: exit-3]"
    )
    config: Path | None = option(
        MEASURING,
        "TOML file with thresholds by row. [default: [tool.stmdeploy.check] of pyproject.toml]",
    )
    timeout_s: float = option(OUTPUT, "Seconds that a worker may live before it is ended.", 600.0)


def check(options: CheckOptions) -> None:
    """Compare a candidate's latency with a baseline's, side by side on this machine.

    Exit codes: 0 no regression, 1 regression, 3 cannot tell, 4 outputs differ, 5 a worker failed.
    """
    from stmdeploy.check.check import CheckSpec
    from stmdeploy.check.check import check as run_check
    from stmdeploy.check.formats.table import check_table
    from stmdeploy.check.policy import read_policy, told_by
    from stmdeploy.cli.requests import check_task
    from stmdeploy.files.writing import staging

    policy = _over(read_policy(options.config), options)
    spec = CheckSpec(
        options.baseline,
        options.candidate,
        options.baseline_python or "",
        options.candidate_python or "",
        stored=options.stored,
        policy=policy,
        timeout_s=options.timeout_s,
        trust=options.trust,
        task=check_task(options.task) or "",
    )
    paths = {
        one.name: path for one in fields(FormatOptions) if (path := getattr(options, one.name))
    }
    for path in paths.values():
        with staging(path.parent):
            pass  # raises before anything is measured where nothing can be written
    with console.progress() as progress, told_by(policy):
        if _is_file(options.baseline):
            from stmdeploy.check.files import check_files

            result = check_files(spec, *_sweeps(options, progress), progress)
        else:
            _refuse_files_options(options)
            result = run_check(spec, progress)
    _tell_github(result, console.tell_runner if options.json else console.print_text)
    console.show(result.figures(), check_table(result), json=options.json)
    _write(result, paths)
    raise typer.Exit(int(result.exit_code))


def _is_file(baseline: Path) -> bool:
    """Whether it is a model rather than a baseline."""
    from stmdeploy.check.bundle import is_archive

    return baseline.is_file() and not is_archive(baseline)


def _sweeps(options: CheckOptions, progress: Progress) -> tuple[SweepSpec, SweepSpec]:
    """Both files, each as a sweep of the same runs.

    Raises:
        StmdeployError: no second file is named, or one cannot be read or run so.
    """
    from stmdeploy.cli.outside import file_models
    from stmdeploy.cli.requests import sweep_spec

    if options.candidate is None or options.stored:
        raise StmdeployError(
            f"{options.baseline} is a file, and nothing is known of it",
            "name the file to compare it with, as in stmdeploy check old.onnx new.onnx",
        )
    asked = part_of(options, SweepOptions)
    found = []
    for path in (options.baseline, options.candidate):
        models = file_models([path], options.input, asked.runtime, asked.precision, progress)
        fixed = models[0].file.batch if models[0].file else None
        batch = options.batch or (fixed or 1,)
        found.append(sweep_spec(replace(asked, batch=batch), files=models))
    return found[0], found[1]


def _refuse_files_options(options: CheckOptions) -> None:
    for one in fields(FilesOptions):
        if getattr(options, one.name):
            raise StmdeployError(
                f"{flag_of(one)} is of two files; a baseline knows how its rows are run",
                f"leave it out: stmdeploy baseline show {options.baseline}",
            )


def writers() -> dict[str, Callable[[CheckResult], bytes]]:
    """What writes each file of `FormatOptions`, by the name of its field."""
    from stmdeploy.check.formats import services
    from stmdeploy.check.formats.junit import junit
    from stmdeploy.check.formats.page import page
    from stmdeploy.check.formats.table import markdown

    return {
        "markdown": lambda found: markdown(found).encode(),
        "junit": junit,
        "html": page,
        "bencher": services.bencher,
        "smaller_is_better": services.smaller_is_better,
        "bigger_is_better": services.bigger_is_better,
    }


def _write(result: CheckResult, paths: dict[str, Path]) -> None:
    """Writes the files that were asked for, each whole or not at all."""
    from stmdeploy.files.writing import write_atomically

    known = writers()
    for name, path in paths.items():
        write_atomically(path, known[name](result))


def _over(policy: Policy, options: CheckOptions) -> Policy:
    """A policy with the flags that override it."""
    given = {"threshold-percent": options.threshold_percent, "budget-s": options.budget_s}
    settings = {key: value for key, value in given.items() if value is not None}
    if settings:
        policy = policy.over(settings)
    word = options.cannot_tell
    return replace(policy, cannot_tell=word) if word is not None else policy


def _tell_github(result: CheckResult, tell: Callable[[str], None]) -> None:
    """The job's summary and annotations, where a GitHub runner takes them."""
    from stmdeploy.check.formats import github

    if problem := github.append_summary(result):
        tell(problem)
    if github.in_actions():
        for line in github.workflow_commands(result):
            tell(line)
