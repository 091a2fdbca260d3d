"""`tune`: the fastest way to run a model here, within limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.cli import console
from stmdeploy.cli.command import Numbers, Words, argument, many, option
from stmdeploy.cli.options import (
    GPU,
    MEASURING,
    OUTPUT,
    SWEEP,
    CheckpointOption,
    JsonOption,
    LimitOptions,
    ModelOptions,
)
from stmdeploy.cli.outside import InputOption
from stmdeploy.errors import StmdeployError
from stmdeploy.spec.export import CalibrationSpec
from stmdeploy.spec.run import EXPORT_TIMEOUT_S, ROW_TIMEOUT_S
from stmdeploy.spec.tuning import RaceSpec

if TYPE_CHECKING:
    from stmdeploy.plugins.progress import Progress
    from stmdeploy.schema.tuned import Tuned
    from stmdeploy.spec.run import RunSpec
    from stmdeploy.spec.tuning import TuneSpec

TUNED_ROOT = Path("stmdeploy-tuned")


@dataclass(frozen=True, kw_only=True)
class TuneOptions(JsonOption, LimitOptions, InputOption, CheckpointOption, ModelOptions):
    """What may win, for what, and within which limits."""

    files: tuple[Path, ...] = argument(
        "Models that you have, as for `profile`. [default: the backbones that the flags name]", ()
    )
    objective: str = option(
        SWEEP, "What is to be least, or best: latency, throughput, memory or energy.", "latency"
    )
    batch: Numbers = many(
        SWEEP, "Images per inference: a race for each; for throughput one for all. [default: 1]"
    )
    in_flight: Numbers = many(
        SWEEP, "With --objective throughput: requests that run at once, too. [default: 1]"
    )
    runtime: Words = many(SWEEP, "Runtimes that may win. [default: all that are installed]")
    precision: Words = many(
        SWEEP, "Precisions that may win. [default: fp32; within limits, all that the runtimes have]"
    )
    lowering: Words = many(SWEEP, "Forms of the mixers that may win. [default: all]")
    threads: Numbers = many(
        SWEEP, "CPU threads that may win, the usual number first. [default: all, and half of them]"
    )
    settings: bool = option(
        SWEEP,
        "Whether settings of the runtimes race, too, for the three best artifacts.",
        True,
        flag="--settings/--no-settings",
    )
    gpu: str | None = option(GPU, "Tune for this GPU: see `stmdeploy hardware list`.")
    max_memory_mib: int | None = option(
        SWEEP, "Most memory that a process may hold, in MiB; on a GPU, of the GPU's."
    )
    data: Path | None = option(
        MEASURING,
        "Photographs: some set the scales of int8, others test the limits. [default: noise, which "
        "looks like none]",
    )
    class_map: Path | None = option(
        MEASURING, "JSON file with the class of every folder of --data."
    )
    calibration_images: int | None = option(
        MEASURING, f"Images that set scales. [default: {CalibrationSpec.images}]"
    )
    held_out: int = option(MEASURING, "Other images that test the limits, at most.", 1024)
    seed: int = option(MEASURING, "Seed of what is drawn at random.", 0)
    error: float = option(
        MEASURING, "Probability that the best configuration is lost.", RaceSpec.error
    )
    within_percent: float = option(
        MEASURING,
        "The race is over once the winner is surely within so many per cent of the best.",
        RaceSpec.within_percent,
    )
    budget_s: float = option(
        MEASURING, "Seconds that a race may take, without exports.", RaceSpec.budget_s
    )
    export_timeout_s: float = option(
        MEASURING, "Seconds that all exports of a model may take.", EXPORT_TIMEOUT_S
    )
    row_timeout_s: float = option(
        MEASURING, "Seconds that a worker may be silent before it is ended.", ROW_TIMEOUT_S
    )
    out: Path = option(
        OUTPUT, "Folder for artifacts, waves and the configuration files.", TUNED_ROOT
    )


def tune(options: TuneOptions) -> None:
    """Find the fastest way to run a model on this machine: runtime, lowering, precision, threads
    and settings race against each other by turns, and whoever is surely slower is dropped.

    Without limits only exact configurations (fp32) race. The winner is written as a file that
    `profile`, `export` and `baseline create` take by --config. The same command goes on where it
    was ended.
    """
    from stmdeploy.cli.tuned_file import write_tuned
    from stmdeploy.report.tuned import tuned_table
    from stmdeploy.tuning.tune import tune as race

    found: list[Tuned] = []
    written: list[Path] = []
    with console.progress() as progress:
        for spec in _specs(options, progress):
            found.append(race(spec, progress))
            written.append(write_tuned(found[-1], spec, options.gpu or ""))
            progress.warn(f"wrote {written[-1]}")
    document = {
        "tuned": [
            {"config": str(path), **one.model_dump(mode="json")}
            for one, path in zip(found, written, strict=True)
        ]
    }
    console.show(document, *map(tuned_table, found), json=options.json)


def _specs(options: TuneOptions, progress: Progress) -> list[TuneSpec]:
    """A race for every model and batch; of throughput, for every model.

    Raises:
        StmdeployError: no model is named, or something unknown is.
    """
    from stmdeploy.cli.outside import file_models
    from stmdeploy.cli.requests import calibration_spec, fidelity_limits, model_specs
    from stmdeploy.spec.data import DataSpec
    from stmdeploy.spec.tuning import THROUGHPUT, TuneSpec

    if not options.stm and not options.model and not options.files:
        raise StmdeployError("no model to tune is named", "give --stm, as in --stm dcn, or a file")
    asked = (options.files, options.input, options.runtime, options.precision)
    models = file_models(*asked, progress, every=True)
    if options.stm or options.model:
        models += model_specs(options)
    if options.in_flight and options.objective != THROUGHPUT:
        raise StmdeployError("--in-flight is about throughput", "add --objective throughput")
    data = None
    if options.data is not None:
        labelled = options.max_top1_drop is not None
        data = DataSpec(options.data, options.class_map, None, labelled)
    threads, runs = _threads(options), _runs(options)
    if not options.batch and (fixed := {one.file.batch for one in models if one.file} - {None}):
        (only, *more) = sorted(filter(None, fixed))
        if more:
            raise StmdeployError("the files take different batches", "tune one after the other")
        runs = [replace(run, batch=only) for run in runs]
    return [
        TuneSpec(
            model,
            some,
            options.out,
            options.runtime,
            options.precision,
            options.lowering,
            threads,
            options.objective,
            fidelity_limits(options),
            options.max_memory_mib,
            data,
            options.held_out,
            calibration_spec(None, options.calibration_images),
            options.seed,
            RaceSpec(
                options.error,
                options.within_percent,
                budget_s=options.budget_s,
                settings=options.settings,
            ),
            options.export_timeout_s,
            options.row_timeout_s,
        )
        for model in models
        for some in ([tuple(runs)] if options.objective == THROUGHPUT else [(run,) for run in runs])
    ]


def _threads(options: TuneOptions) -> tuple[int, ...]:
    """The numbers of threads that may win, the usual one first."""
    from stmdeploy.hardware.machine import available_threads

    every = available_threads()
    return options.threads or tuple(dict.fromkeys((every, max(1, every // 2))))


def _runs(options: TuneOptions) -> list[RunSpec]:
    """Where it runs, at every batch and number of requests in flight."""
    from stmdeploy.cli.devices import devices_here
    from stmdeploy.spec.run import RunSettings, RunSpec

    places = devices_here((options.gpu,) if options.gpu else (), ()).places
    place: dict[str, Any] = dict(places[0])
    on_gpu = place.get("device") == "cuda"
    graph = RunSettings(cuda_graph=on_gpu, cuda_graph_optional=on_gpu)
    return [
        RunSpec(
            "onnxruntime", batch, _threads(options)[0], **place, in_flight=requests,
            settings=graph if requests == 1 else RunSettings(),
        )
        for batch in options.batch or (1,)
        for requests in options.in_flight or (1,)
    ]  # fmt: skip
