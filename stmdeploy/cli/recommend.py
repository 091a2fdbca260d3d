"""`recommend`: which of the measured rows to choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stmdeploy.cli import console
from stmdeploy.cli.command import Numbers, Words, many, option
from stmdeploy.cli.options import GPU, MODEL, OUTPUT, SWEEP, JsonOption, StoreOptions
from stmdeploy.errors import ExitCode, StmdeployError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stmdeploy.schema.row import Row

_LIMITS = "Limits"


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """What a choice must keep."""

    max_latency_ms: float | None = option(
        _LIMITS, "Highest latency of one inference of the whole batch, in ms."
    )
    min_throughput: float | None = option(_LIMITS, "Lowest throughput, in images per second.")
    max_memory_mib: float | None = option(
        _LIMITS, "Highest peak memory in MiB: on the GPU, or of the worker process on a CPU."
    )
    max_energy_j: float | None = option(_LIMITS, "Highest energy, in joules per image.")
    min_top1: float | None = option(
        _LIMITS, "Lowest top-1 accuracy in per cent: measured, or else published."
    )
    min_box_ap: float | None = option(
        _LIMITS, "detection: lowest COCO box AP in per cent, published (Mask R-CNN 1x)."
    )
    min_mask_ap: float | None = option(
        _LIMITS, "detection: lowest COCO mask AP in per cent, published (Mask R-CNN 1x)."
    )
    min_consistency: float | None = option(
        _LIMITS,
        "Lowest consistency in per cent, the mean over the transforms that `stmdeploy invariance` "
        "measured.",
    )


@dataclass(frozen=True, kw_only=True)
class RecommendOptions(JsonOption, StoreOptions, LimitOptions):
    """Among which rows, and by which limits."""

    gpu: str | None = option(
        GPU,
        "GPU that rows were measured on, as `stmdeploy hardware list` names it. [default: this "
        "machine's processor]",
    )
    device: str | None = option(GPU, "Device that rows were measured on, by any part of its name.")
    task: str | None = option(
        MODEL,
        "Choose among rows of this task: classification or detection. [default: classification; "
        "detection with a limit of its AP]",
    )
    stm: Words = many(MODEL, "Choose among these mixers only.")
    runtime: Words = many(SWEEP, "Choose among these runtimes only.")
    precision: Words = many(SWEEP, "Choose among these precisions only.")
    batch: Numbers = many(SWEEP, "Choose among these batches only.")
    runners_up: int = option(OUTPUT, "Number of runners-up shown after the choices.", 5)


def recommend(options: RecommendOptions) -> None:
    """Choose among what was measured: the rows that keep every limit, the most accurate first.

    Exit code 3: nothing was measured on that hardware, or no row is certain to keep the limits.
    """
    from stmdeploy.cli.requests import open_store
    from stmdeploy.report.recommendation import Limits
    from stmdeploy.report.recommendation import recommend as choose
    from stmdeploy.report.recommendation_table import recommendation_document, recommendation_table
    from stmdeploy.report.text_table import counted
    from stmdeploy.spec.limits import at_least

    at_least(0, options.runners_up, "runners-up")
    limits = Limits(
        options.max_latency_ms,
        options.min_throughput,
        options.max_memory_mib,
        options.max_energy_j,
        options.min_top1,
        options.min_box_ap,
        options.min_mask_ap,
        options.min_consistency,
    )
    measured, title = _of_device(open_store(options).newest_rows(), options)
    rows = _only(measured, options)
    found = choose(rows, limits)
    document = {"device": title, **recommendation_document(found)}
    table = recommendation_table(found, title, options.runners_up)
    console.show(document, table, json=options.json)
    if not found.choices:
        raise StmdeployError(
            f"none of {counted(len(rows), 'measured row')} is certain to keep every limit",
            "loosen a limit, or measure with a larger --budget-s",
            ExitCode.CANNOT_TELL,
        )


def _of_device(rows: Sequence[Row], options: RecommendOptions) -> tuple[list[Row], str]:
    """The rows that were measured on the device asked for, and its name.

    Raises:
        StmdeployError: there are none (exit code 3), or --gpu and --device are both given.
    """
    from stmdeploy.hardware.machine import processor_name
    from stmdeploy.hardware.profiles import find_profiles
    from stmdeploy.spec.run import LOOP

    if options.gpu is not None and options.device is not None:
        raise StmdeployError("--gpu and --device exclude each other", "give one of them")
    if options.gpu is not None:
        profiles = find_profiles(options.gpu)
        title = " or ".join(profile.title for profile in profiles)
        found = [row for row in rows if any(p.fits(row.device_name) for p in profiles)]
    elif options.device is not None:
        title = options.device
        found = [row for row in rows if title.lower() in row.device_name.lower()]
    else:
        title = processor_name()
        found = [row for row in rows if row.device == "cpu" and row.device_name == title]
    found = [row for row in found if row.scenario == LOOP]
    if not found:
        known = ", ".join(sorted({row.device_name for row in rows})) or "no device"
        raise StmdeployError(
            f"nothing is measured on {title}; the store has rows of {known}",
            "measure there: stmdeploy profile",
            ExitCode.CANNOT_TELL,
        )
    return found, title


def _task(options: RecommendOptions) -> str:
    """The task that the limits, or --task, are about.

    Raises:
        StmdeployError: they contradict each other.
    """
    from stmdeploy.cli.requests import check_task
    from stmdeploy.spec.model import CLASSIFICATION, DETECTION

    of_detection = options.min_box_ap is not None or options.min_mask_ap is not None
    task = check_task(options.task) or (DETECTION if of_detection else CLASSIFICATION)
    if (of_detection and task != DETECTION) or (options.min_top1 is not None and task == DETECTION):
        raise StmdeployError(
            "AP belongs to detection backbones, and top-1 to classification",
            "give --min-box-ap or --min-mask-ap with --task detection, --min-top1 without",
        )
    return task


def _only(rows: Sequence[Row], options: RecommendOptions) -> list[Row]:
    from stmdeploy.backbones.catalogue import resolve

    wanted, task = {resolve(word).stm for word in options.stm}, _task(options)
    found = [
        row
        for row in rows
        if row.task == task
        and (not wanted or row.stm in wanted)
        and (not options.runtime or row.runtime in options.runtime)
        and (not options.precision or row.precision in options.precision)
        and (not options.batch or row.batch in options.batch)
    ]
    if not found:
        raise StmdeployError(
            f"no measured row of {task} on that hardware fits --stm, --runtime, --precision and "
            "--batch",
            "see what there is: stmdeploy report --markdown",
            ExitCode.CANNOT_TELL,
        )
    return found
