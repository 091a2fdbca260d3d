"""`profile`: rows measured on this machine, or on a cluster's nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import typer

from stmdeploy.cli import console
from stmdeploy.cli.command import argument, option
from stmdeploy.cli.options import (
    CLUSTER,
    OUTPUT,
    RESULTS_ROOT,
    SWEEP,
    JsonOption,
    StoreOptions,
    SweepFileOption,
    SweepOptions,
    TrustOption,
    part_of,
)
from stmdeploy.cli.outside import InputOption
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.report.text_table import counted

if TYPE_CHECKING:
    from stmdeploy.plugins.progress import Progress
    from stmdeploy.schema.row import Row
    from stmdeploy.sweeps.profile import OnRow, Place, SweepResult


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(
    JsonOption, TrustOption, StoreOptions, InputOption, SweepFileOption, SweepOptions
):
    """What is measured, where, and how it is shown."""

    files: tuple[Path, ...] = argument(
        "Models that you have: .onnx, .xml of OpenVINO, .pt2 of AOTInductor, .engine; or artifacts "
        "of `stmdeploy export`. [default: the backbones that the flags name]",
        (),
    )
    dry_run: bool = option(
        SWEEP, "Show the rows and how long they may take; measure nothing.", False
    )
    resume: bool = option(SWEEP, "Go on with an unfinished sweep.", False)
    sweep_id: str | None = option(
        SWEEP,
        "With --resume: the sweep, as `stmdeploy results list` names it. [default: the newest]",
    )
    retry_failed: bool = option(SWEEP, "With --resume: also measure failed rows again.", False)
    layers: bool = option(
        OUTPUT, "Show where the time of each row goes, operator by operator; store nothing.", False
    )
    trace: Path | None = option(OUTPUT, "With --layers: folder to write Chrome traces into.")
    cluster: str | None = option(
        CLUSTER,
        "Measure on the nodes of a Ray cluster: ray://HOST:PORT, auto, HOST:PORT, or local.",
    )
    allow_version_differences: bool = option(
        CLUSTER, "With --cluster: also use nodes whose runtimes have other versions.", False
    )


def profile(options: ProfileOptions) -> None:
    """Measure backbones and print accuracy beside real cost: here, or on a cluster's nodes.

    Without arguments: the five micro backbones at batches 1 and 8 on the CPU.
    """
    from stmdeploy.cli.outside import file_models
    from stmdeploy.cli.requests import notes_of, sweep_spec
    from stmdeploy.cli.sweep_file import file_of_flags, with_file
    from stmdeploy.cli.tuned_file import tuned_of
    from stmdeploy.plugins.trust import needs_trust

    if options.resume:
        _resume(options)
        return
    if options.retry_failed or options.sweep_id is not None:
        raise StmdeployError("--retry-failed and --sweep-id need --resume", "add --resume")
    if options.trace is not None and not options.layers:
        raise StmdeployError("--trace needs --layers", "add --layers")
    place = _place(options)
    asked = with_file(part_of(options, SweepOptions), *file_of_flags(options), trust=options.trust)
    if options.input and not options.files:
        raise StmdeployError("--input is of a file", "name the file, as in model.onnx")
    with console.progress() as progress:
        asked_of = (options.files, options.input, asked.runtime, asked.precision)
        files = file_models(*asked_of, progress)
    spec = sweep_spec(asked, on_cluster=place.cluster is not None, files=files)
    for line in notes_of(asked, spec):
        console.note(line)
    if options.dry_run:
        from stmdeploy.cli.plan import show_plan

        show_plan(spec, place, json=options.json)
    elif options.layers:
        from stmdeploy.cli.layers import show_layers

        if place.cluster is not None:
            raise StmdeployError("--layers works on this machine alone", "leave --cluster out")
        show_layers(spec, options.trace, json=options.json)
    else:
        from stmdeploy.sweeps.profile import profile as measure

        work = partial(measure, spec, place)
        told = tuned_of(options.config) if options.config is not None else {}
        _measure(work, place, trust=needs_trust(spec), json=options.json, tuned=told)


def _to_go_on(place: Place, *, trust: bool) -> str:
    """The command that goes on with what was interrupted; a store's address, which may hold a
    password, is left to the environment."""
    import shlex

    words = ["stmdeploy", "profile", "--resume"]
    if place.folder != RESULTS_ROOT:
        words += ["--out", str(place.folder)]
    if place.cluster is not None:
        words += ["--cluster", place.cluster.address]
    words += ["--trust"] * trust
    return shlex.join(words) + (" (with the same --store)" if place.store_url else "")


def _resume(options: ProfileOptions) -> None:
    from stmdeploy.sweeps.profile import ResumeSpec
    from stmdeploy.sweeps.profile import resume as measure

    named = options.sweep or options.config or options.files or options.input
    if part_of(options, SweepOptions) != SweepOptions() or named:
        raise StmdeployError(
            "--resume takes no flags that describe rows", "leave them out: the sweep has its own"
        )
    if options.dry_run or options.layers:
        raise StmdeployError("--resume measures rows", "leave --dry-run and --layers out")
    place = _place(options)
    asked = ResumeSpec(options.sweep_id, options.retry_failed, options.trust)
    _measure(partial(measure, asked, place), place, trust=options.trust, json=options.json)


def _place(options: ProfileOptions) -> Place:
    from stmdeploy.cluster.planning import ClusterSpec
    from stmdeploy.sweeps.profile import Place

    cluster = None
    if options.cluster:
        _check_secret(options.store_url)
        cluster = ClusterSpec(options.cluster, options.allow_version_differences)
    elif options.allow_version_differences:
        raise StmdeployError("--allow-version-differences needs --cluster", "add --cluster ADDRESS")
    return Place(options.folder, options.store_url or "", cluster)


def _check_secret(store_url: str | None) -> None:
    """Refuses a password in --store: Ray shows its drivers' command lines to the whole cluster."""
    import os

    from stmdeploy.results.database import server_url

    given = store_url is not None and os.environ.get("STMDEPLOY_STORE") != store_url
    if given and server_url(store_url or "").password:
        raise StmdeployError(
            "--store has a password, and Ray shows the command line to the whole cluster",
            "put the URL into STMDEPLOY_STORE, or the password into PGPASSWORD",
        )


def _measure(
    work: Callable[[Progress, OnRow], SweepResult],
    place: Place,
    *,
    trust: bool,
    json: bool,
    tuned: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Measures and prints; when interrupted, says what is finished and how to go on.

    Args:
        tuned: what a race found, which the outcome is held against; empty for nothing.
    """
    from stmdeploy.cli.tuned_file import compared_with, warn_if_elsewhere
    from stmdeploy.report.profile_table import row_in_words

    done: list[Row] = []
    try:
        with console.progress() as progress:
            warn_if_elsewhere(tuned, "this configuration", progress)

            def finished(row: Row) -> None:
                done.append(row)
                progress.warn(row_in_words(row))

            result = work(progress, finished)
    except KeyboardInterrupt:
        console.say(
            f"stmdeploy: interrupted; {counted(len(done), 'row')} finished, stored in "
            f"{place.folder}; go on with: {_to_go_on(place, trust=trust)}"
        )
        raise
    console.show_rows(result.rows, place.folder, result.sweep.id, result.reference, json=json)
    if told := compared_with(tuned, result.rows):
        console.say(told)
    if codes := {row.failure_code for row in result.rows if row.failure}:
        differ = int(ExitCode.OUTPUTS_DIFFER)
        raise typer.Exit(differ if differ in codes else int(ExitCode.WORKER_FAILED))
