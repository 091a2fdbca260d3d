"""`evaluate`: the accuracy of artifacts, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stmdeploy.cli import console
from stmdeploy.cli.command import REQUIRED, argument, option
from stmdeploy.cli.options import (
    MEASURING,
    ImagesOptions,
    JsonOption,
    StoreOptions,
    TaskOption,
    TrustOption,
)
from stmdeploy.cli.outside import InputOption
from stmdeploy.errors import StmdeployError


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(
    JsonOption, TrustOption, TaskOption, StoreOptions, InputOption, ImagesOptions
):
    """What is evaluated, and over what."""

    artifacts: tuple[Path, ...] = argument(
        "Main files of artifacts; or models that you have, which map images to logits.", REQUIRED
    )
    reference: Path | None = option(
        MEASURING,
        "The same model in fp32, to measure agreement with. [default: one of the artifacts, or "
        "one that lies beside them]",
    )


def evaluate(options: EvaluateOptions) -> None:
    """Measure top-1 and top-5 of artifacts over labelled images, prepared as the model wants them:
    by default as for the published figures, resized to 256/224 of the image size (bicubic), centre
    cropped.

    The figures are stored; tables and reports then show them beside the published ones. What was
    ended goes on when the same is asked for again.
    """
    from stmdeploy.cli.outside import as_artifacts
    from stmdeploy.cli.requests import check_task, images_spec
    from stmdeploy.evaluate.accuracy import EvaluationSpec
    from stmdeploy.evaluate.accuracy import evaluate as run_evaluation
    from stmdeploy.evaluate.predicting import NO_ACCURACY, NO_ACCURACY_HINT
    from stmdeploy.spec.model import DETECTION

    if check_task(options.task) == DETECTION:
        raise StmdeployError(NO_ACCURACY, NO_ACCURACY_HINT)
    asked = images_spec(options, trust=options.trust)
    with (
        console.progress() as progress,
        as_artifacts(options.artifacts, options.input, options.runtime or "", progress) as paths,
    ):
        spec = EvaluationSpec(paths, **asked, reference=options.reference)
        found = run_evaluation(spec, options.folder, progress, options.store_url or "")
    console.show_evaluations(found, json=options.json)
