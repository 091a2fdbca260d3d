"""`check`: baseline and candidate side by side, judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stmdeploy.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from stmdeploy.regression.outcome import CheckResult
    from stmdeploy.regression.policy import Policy


def check(
    baseline: Annotated[Path, typer.Argument(help="What `baseline create` wrote.")],
    candidate: Annotated[
        Path | None,
        typer.Argument(
            help="An artifact, a folder of artifacts, or another baseline. "
            "[default: the baseline's models, exported again]"
        ),
    ] = None,
    baseline_python: Annotated[
        str | None,
        typer.Option(
            "--baseline-python",
            help="Interpreter that runs the baseline. Without CANDIDATE both sides run the "
            "baseline's artifacts: a check of the runtime.",
        ),
    ] = None,
    candidate_python: Annotated[
        str | None, typer.Option("--candidate-python", help="Interpreter of the candidate.")
    ] = None,
    stored: Annotated[
        bool,
        typer.Option(
            "--stored", help="Compare with the baseline's numbers; only on the same machine."
        ),
    ] = False,
    threshold_percent: Annotated[
        float | None,
        typer.Option("--threshold-percent", help="A slowdown beyond is a regression. [default: 5]"),
    ] = None,
    budget_s: Annotated[
        float | None,
        typer.Option("--budget-s", help="Of a row, both sides together. [default: 60]"),
    ] = None,
    cannot_tell: Annotated[
        str | None,
        typer.Option("--cannot-tell", help="What it ends with: exit-3, fail, pass."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file with thresholds by row. [default: [tool.stmdeploy.check] of "
            "pyproject.toml]",
        ),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the table in Markdown.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with the distributions.")
    ] = None,
    bencher: Annotated[
        Path | None, typer.Option("--bencher", help="Write Bencher Metric Format.")
    ] = None,
    smaller_is_better: Annotated[
        Path | None,
        typer.Option("--smaller-is-better", help="Write latencies for github-action-benchmark."),
    ] = None,
    bigger_is_better: Annotated[
        Path | None,
        typer.Option("--bigger-is-better", help="Write throughputs for github-action-benchmark."),
    ] = None,
    timeout_s: options.TimeoutS = 600.0,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Compare a candidate's latency with a baseline's, side by side on this machine.

    Exit codes: 0 no regression, 1 regression, 3 cannot tell, 4 outputs differ, 5 a worker failed.
    """
    from stmdeploy.cli import console
    from stmdeploy.files import staging
    from stmdeploy.regression.checking import CheckSpec
    from stmdeploy.regression.checking import check as run_check
    from stmdeploy.regression.policy import read_policy, told_by

    policy = _over(read_policy(config), threshold_percent, budget_s, cannot_tell)
    spec = CheckSpec(
        baseline, candidate, baseline_python or "", candidate_python or "",
        stored=stored, policy=policy, timeout_s=timeout_s, trust=trust,
    )  # fmt: skip
    files = {
        "markdown": markdown,
        "junit": junit,
        "html": html,
        "bencher": bencher,
        "smaller_is_better": smaller_is_better,
        "bigger_is_better": bigger_is_better,
    }
    paths = {name: path for name, path in files.items() if path is not None}
    for path in paths.values():
        with staging(path.parent):
            pass  # what cannot be written is told before anything is measured
    with console.progress() as progress, told_by(policy):
        result = run_check(spec, progress)
    if json:
        _tell_github(result, console.tell_runner)
        console.print_json(result.figures())
    else:
        from stmdeploy.regression.formats.table import check_table

        _tell_github(result, console.print_text)
        console.print_table(check_table(result))
    _write(result, paths)
    raise typer.Exit(int(result.exit_code))


def _over(
    policy: Policy, threshold_percent: float | None, budget_s: float | None, word: str | None
) -> Policy:
    """Flags are stronger than the file."""
    given = {"threshold-percent": threshold_percent, "budget-s": budget_s}
    settings = {key: value for key, value in given.items() if value is not None}
    if settings:
        policy = policy.over(settings)
    return replace(policy, cannot_tell=word) if word is not None else policy


def _write(result: CheckResult, paths: dict[str, Path]) -> None:
    """Writes the files that were asked for, each whole or not at all."""
    from stmdeploy.files import write_atomically
    from stmdeploy.regression.formats import services
    from stmdeploy.regression.formats.junit import junit
    from stmdeploy.regression.formats.page import page
    from stmdeploy.regression.formats.table import markdown

    writers = {
        "markdown": lambda found: markdown(found).encode(),
        "junit": junit,
        "html": page,
        "bencher": services.bencher,
        "smaller_is_better": services.smaller_is_better,
        "bigger_is_better": services.bigger_is_better,
    }
    for name, path in paths.items():
        write_atomically(path, writers[name](result))


def _tell_github(result: CheckResult, tell: Callable[[str], None]) -> None:
    """The job's summary and annotations, where a GitHub runner takes them."""
    from stmdeploy.regression.formats import github

    if problem := github.append_summary(result):
        tell(problem)
    if github.in_actions():
        for line in github.workflow_commands(result):
            tell(line)
