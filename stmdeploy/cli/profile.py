"""`profile`: rows measured on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stmdeploy.cli import options
from stmdeploy.errors import ExitCode, StmdeployError

if TYPE_CHECKING:
    from stmdeploy.cluster.planning import ClusterSpec
    from stmdeploy.pipeline import SweepResult
    from stmdeploy.results.row import Row
    from stmdeploy.sweep import SweepSpec


def profile(
    stm: options.Stm = None,
    scale: options.Scale = None,
    model: options.Model = None,
    image_size: options.ImageSize = None,
    num_classes: options.NumClasses = None,
    checkpoint: options.Checkpoint = None,
    batch: Annotated[
        list[str] | None,
        typer.Option("--batch", help="[default: 1,8; of a GPU what its profile has]"),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            help="onnxruntime, openvino, torch, torch-compile, aotinductor, tensorrt, "
            "tensorrt-rtx. [default: onnxruntime]",
        ),
    ] = None,
    precision: options.Precision = None,
    calibration: options.CalibrationFolder = None,
    calibration_images: Annotated[
        int | None, typer.Option("--calibration-images", help="How many set the scales.")
    ] = None,
    threads: Annotated[
        list[str] | None, typer.Option("--threads", help="Of one operator. [default: all]")
    ] = None,
    in_flight: Annotated[
        list[str] | None,
        typer.Option("--in-flight", help="Requests that run at once. [default: 1]"),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            help="loop, or MLPerf's by LoadGen: single-stream, multi-stream, server, offline. "
            "[default: loop]",
        ),
    ] = None,
    scenario_duration_s: Annotated[
        float | None,
        typer.Option("--scenario-duration-s", help="Of a LoadGen run. [default: 10]"),
    ] = None,
    target_latency_ms: Annotated[
        float | None,
        typer.Option("--target-latency-ms", help="Of server: what its p99 must keep."),
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option("--python", help="Interpreters that measure. [default: this one]"),
    ] = None,
    lowering: options.Lowering = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu",
            help="Measure on this GPU: see `stmdeploy hardware list`. With --cluster several, as "
            "a100,h100.",
        ),
    ] = None,
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            "--nodes", help="With --cluster: measure the processors of these accelerator_types."
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider",
            help="Of onnxruntime: cpu, cuda, tensorrt, nvtensorrtrtx, openvino. "
            "[default: cpu, with --gpu cuda]",
        ),
    ] = None,
    hint: Annotated[
        str | None,
        typer.Option("--hint", help="Of openvino: latency, throughput. [default: latency]"),
    ] = None,
    use_cuda_graph: Annotated[
        bool | None,
        typer.Option("--use-cuda-graph", help="Replay the inference as one CUDA graph."),
    ] = None,
    workspace_mib: options.WorkspaceMib = None,
    builder_optimization_level: options.BuilderLevel = None,
    timing_cache_file: options.TimingCache = None,
    compute_capability: options.ComputeCapability = None,
    budget_s: Annotated[
        float | None, typer.Option("--budget-s", help="Sampling time of a row. [default: 10]")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", help="Fresh processes of a row, at least. [default: 3]"),
    ] = None,
    interval_percent: Annotated[
        float | None,
        typer.Option(
            "--interval-percent",
            help="Stop when the 95 % interval is this much to either side. [default: 2]",
        ),
    ] = None,
    warmup_limit_s: Annotated[
        float | None, typer.Option("--warmup-limit-s", help="Of a process. [default: 3]")
    ] = None,
    row_timeout_s: Annotated[
        float | None,
        typer.Option(
            "--row-timeout-s", help="A worker is ended so long after its budget. [default: 600]"
        ),
    ] = None,
    export_timeout_s: Annotated[
        float | None,
        typer.Option(
            "--export-timeout-s", help="The exports of a model are ended after it. [default: 3600]"
        ),
    ] = None,
    memory_limit_mib: Annotated[
        int | None,
        typer.Option("--memory-limit-mib", help="Of a worker. [default: what is free]"),
    ] = None,
    smaller_batch: Annotated[
        bool | None,
        typer.Option("--smaller-batch", help="After running out of memory, try half the batch."),
    ] = None,
    explain: Annotated[
        bool | None,
        typer.Option(
            "--explain/--no-explain",
            help="Also find out the bound of every row, and where its time goes. "
            "[default: explain]",
        ),
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option("--sweep", help="TOML file whose keys are these flags; flags are stronger."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the rows and how long they may take.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest unfinished sweep.")
    ] = False,
    sweep_id: Annotated[
        str | None,
        typer.Option(
            "--sweep-id", help="With --resume: which, as of `results list`. [default: the newest]"
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: also measure failed rows again.")
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Instead of rows: where the time of each goes.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="With --layers: a folder for Chrome traces."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Measure on the nodes of a Ray cluster: ray://HOST:PORT, auto, HOST:PORT, or "
            "local.",
        ),
    ] = None,
    allow_version_differences: Annotated[
        bool,
        typer.Option(
            "--allow-version-differences",
            help="With --cluster: also use nodes whose runtimes have other versions.",
        ),
    ] = False,
    out: options.Out = None,
    store_url: options.StoreUrl = None,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Measure backbones and print accuracy beside real cost: here, or on a cluster's nodes.

    Without arguments: the five micro backbones at batches 1 and 8 on the CPU.
    """
    # First, while nothing but the flags is local here.
    values = dict(locals())
    from dataclasses import fields

    from stmdeploy.cli.flags import SweepFlags, sweep_spec, with_file
    from stmdeploy.cli.requests import RESULTS_ROOT

    flags = SweepFlags(**{f.name: values[f.name] for f in fields(SweepFlags)})
    fleet = _cluster(cluster, store_url, allow_version_differences)
    place = _Place(out or RESULTS_ROOT, store_url or "", fleet)
    if resume:
        if flags != SweepFlags() or sweep is not None:
            raise StmdeployError("--resume takes no other row flags", "a sweep keeps its own")
        if dry_run or layers:
            raise StmdeployError("--resume measures", "leave --dry-run and --layers out")
        _show(_resume(place, sweep_id, retry_failed=retry_failed, trust=trust), place, json=json)
        return
    _check_only_of_resume(sweep_id, retry_failed=retry_failed)
    whole = flags if sweep is None else with_file(flags, sweep, trust=trust)
    spec = sweep_spec(whole, on_cluster=fleet is not None)
    if dry_run:
        from stmdeploy.cli.plan import show_plan

        show_plan(spec, place.folder, place.store_url, fleet, json=json)
    elif layers:
        from stmdeploy.cli.layers import show_layers

        if fleet is not None:
            raise StmdeployError("--layers looks at this machine", "leave --cluster out")
        show_layers(spec, trace, json=json)
    else:
        if trace is not None:
            raise StmdeployError("--trace needs --layers", "add it")
        _show(_profile(spec, place), place, json=json)


@dataclass(frozen=True)
class _Place:
    """Where rows are kept, and where they are measured."""

    folder: Path
    store_url: str
    cluster: ClusterSpec | None

    @property
    def kept(self) -> dict[str, Any]:
        """What `pipeline.profile` and `resume` take of it."""
        return {"store_url": self.store_url, "cluster": self.cluster}


def _check_only_of_resume(sweep_id: str | None, *, retry_failed: bool) -> None:
    if retry_failed or sweep_id is not None:
        raise StmdeployError("--retry-failed and --sweep-id need --resume", "add it")


def _cluster(address: str | None, store_url: str | None, any_versions: bool) -> ClusterSpec | None:
    from stmdeploy.cluster.planning import ClusterSpec

    if address:
        _check_secret(store_url)
        return ClusterSpec(address, any_versions)
    if any_versions:
        raise StmdeployError("--allow-version-differences needs --cluster", "add it")
    return None


def _check_secret(store_url: str | None) -> None:
    """Ray shows everybody on the cluster how its drivers were started."""
    import os

    from stmdeploy.results.database import server_url

    given = store_url is not None and os.environ.get("STMDEPLOY_STORE") != store_url
    if given and server_url(store_url or "").password:
        raise StmdeployError(
            "--store has a password, and Ray shows the command line to the whole cluster",
            "put the URL into STMDEPLOY_STORE, or the password into PGPASSWORD",
        )


def _show(result: SweepResult, place: _Place, *, json: bool) -> None:
    from stmdeploy.cli import console

    console.show_rows(result.rows, place.folder, result.sweep.id, json=json)
    if codes := {row.failure_code for row in result.rows if row.failure}:
        differ = int(ExitCode.OUTPUTS_DIFFER)
        raise typer.Exit(differ if differ in codes else int(ExitCode.WORKER_FAILED))


def _profile(spec: SweepSpec, place: _Place) -> SweepResult:
    from stmdeploy.cli import console
    from stmdeploy.pipeline import profile as run_profile
    from stmdeploy.trust import needs_trust

    done: list[Row] = []
    try:
        with console.progress() as progress:
            return run_profile(spec, place.folder, progress, done.append, **place.kept)
    except KeyboardInterrupt:
        _say_interrupted(len(done), place.folder, trust=needs_trust(spec))
        raise


def _resume(place: _Place, sweep_id: str | None, *, retry_failed: bool, trust: bool) -> SweepResult:
    from stmdeploy.cli import console
    from stmdeploy.pipeline import resume as run_resume

    done: list[Row] = []
    try:
        with console.progress() as progress:
            return run_resume(
                place.folder,
                sweep_id,
                progress,
                done.append,
                retry_failed=retry_failed,
                trust=trust,
                **place.kept,
            )
    except KeyboardInterrupt:
        _say_interrupted(len(done), place.folder, trust=trust)
        raise


def _say_interrupted(finished: int, folder: Path, *, trust: bool) -> None:
    from stmdeploy.cli import console

    console.say(
        f"stmdeploy: interrupted; {finished} rows are finished, what was measured is in {folder}; "
        f"go on with --resume{' --trust' if trust else ''}"
    )
