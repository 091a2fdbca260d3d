"""`check`: baseline and candidate side by side, judged."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stmdeploy.cli import console
from stmdeploy.cli.command import REQUIRED, argument, option
from stmdeploy.cli.options import MEASURING, OUTPUT, SWEEP, JsonOption, TaskOption, TrustOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from stmdeploy.check.outcome import CheckResult
    from stmdeploy.check.policy import Policy


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
class CheckOptions(JsonOption, TrustOption, TaskOption, FormatOptions):
    """What is compared, and what is allowed."""

    baseline: Path = argument("Baseline that `stmdeploy baseline create` wrote.", REQUIRED)
    candidate: Path | None = argument(
        "Artifact, folder of artifacts, or another baseline. [default: the baseline's models, "
        "exported again]",
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
        result = run_check(spec, progress)
    _tell_github(result, console.tell_runner if options.json else console.print_text)
    console.show(result.figures(), check_table(result), json=options.json)
    _write(result, paths)
    raise typer.Exit(int(result.exit_code))


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
