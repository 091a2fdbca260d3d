"""`evaluate`: the accuracy of artifacts, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stmdeploy.cli import console
from stmdeploy.cli.command import REQUIRED, argument, option
from stmdeploy.cli.options import (
    GPU,
    MEASURING,
    OUTPUT,
    JsonOption,
    StoreOptions,
    TaskOption,
    TrustOption,
)
from stmdeploy.errors import StmdeployError


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(JsonOption, TrustOption, TaskOption, StoreOptions):
    """What is evaluated, and over what."""

    artifacts: tuple[Path, ...] = argument("Main files of the artifacts.", REQUIRED)
    data: Path = option(MEASURING, "Folder with one folder of images per class.", REQUIRED)
    class_map: Path | None = option(
        MEASURING,
        "JSON file with the class of every folder. [default: folders in alphabetical order are "
        "classes 0, 1, ...]",
    )
    limit: int | None = option(MEASURING, "Number of images, taken evenly from all. [default: all]")
    batch: int = option(MEASURING, "Images per inference.", 32)
    threads: int | None = option(
        MEASURING, "CPU threads that one operator uses, and that read images. [default: all]"
    )
    runtime: str | None = option(
        MEASURING, "Runtime of the artifacts. [default: the usual one of each]"
    )
    provider: str | None = option(MEASURING, "onnxruntime: execution provider. [default: cpu]")
    gpu: str | None = option(GPU, "Run on this GPU: see `stmdeploy hardware list`.")
    reference: Path | None = option(
        MEASURING,
        "The same model in fp32, to measure agreement with. [default: one of the artifacts, or "
        "one that lies beside them]",
    )
    timeout_s: float = option(
        OUTPUT, "Seconds that a worker may spend on one batch before it is ended.", 600.0
    )


def evaluate(options: EvaluateOptions) -> None:
    """Measure top-1 and top-5 of artifacts over labelled images, prepared as for the published
    figures: resized to 256/224 of the image size (bicubic), centre cropped.

    The figures are stored; tables and reports then show them beside the published ones.
    """
    from stmdeploy.cli.requests import check_task
    from stmdeploy.evaluate.accuracy import NO_ACCURACY, NO_ACCURACY_HINT, EvaluationSpec
    from stmdeploy.evaluate.accuracy import evaluate as run_evaluation
    from stmdeploy.hardware.gpus import find_gpu
    from stmdeploy.hardware.machine import available_threads
    from stmdeploy.spec.model import DETECTION
    from stmdeploy.spec.run import RunSettings

    if check_task(options.task) == DETECTION:
        raise StmdeployError(NO_ACCURACY, NO_ACCURACY_HINT)
    spec = EvaluationSpec(
        artifacts=options.artifacts,
        data=options.data,
        batch=options.batch,
        threads=available_threads() if options.threads is None else options.threads,
        class_map=options.class_map,
        limit=options.limit,
        runtime=options.runtime or "",
        settings=RunSettings(provider=options.provider or ""),
        gpu=find_gpu(options.gpu)[0] if options.gpu else None,
        reference=options.reference,
        timeout_s=options.timeout_s,
        trust=options.trust,
    )
    with console.progress() as progress:
        found = run_evaluation(spec, options.folder, progress, options.store_url or "")
    console.show_evaluations(found, json=options.json)
