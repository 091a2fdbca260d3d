"""`evaluate`: the accuracy of artifacts, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stmdeploy.cli import options


def evaluate(
    artifacts: Annotated[list[Path], typer.Argument(help="Main files of artifacts.")],
    data: Annotated[
        Path, typer.Option("--data", help="Folder with a folder of images for each class.")
    ],
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--class-map",
            help="JSON file: the class of every folder. [default: the order of their names]",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="So many images, spread over all. [default: all]")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Images at a time.")] = 32,
    threads: Annotated[int | None, typer.Option("--threads", help="[default: all]")] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="[default: the usual one of each artifact]")
    ] = None,
    provider: Annotated[str | None, typer.Option("--provider", help="Of onnxruntime.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="Run on this GPU.")] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="The same model in fp32, to tell agreement with. [default: one of the artifacts, "
            "or one that lies beside]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the store. [default: stmdeploy-results]")
    ] = None,
    store_url: options.StoreUrl = None,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout-s", help="A worker that is through with no batch for so long is ended."
        ),
    ] = 600.0,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Measure top-1 and top-5 of artifacts over labelled images, as published: resized to 256/224
    of the image size (bicubic), centre cropped.

    The figures are stored, and from then on stand as measured beside the published ones.
    """
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import RESULTS_ROOT
    from stmdeploy.evaluating import EvaluationSpec
    from stmdeploy.evaluating import evaluate as run_evaluation
    from stmdeploy.hardware import find_gpu
    from stmdeploy.report.accuracy import evaluation_table
    from stmdeploy.spec import RunSettings, available_threads

    spec = EvaluationSpec(
        artifacts=tuple(artifacts),
        data=data,
        batch=batch,
        threads=available_threads() if threads is None else threads,
        class_map=class_map,
        limit=limit,
        runtime=runtime or "",
        settings=RunSettings(provider=provider or ""),
        gpu=find_gpu(gpu)[0] if gpu else None,
        reference=reference,
        timeout_s=timeout_s,
        trust=trust,
    )
    with console.progress() as progress:
        found = run_evaluation(spec, out or RESULTS_ROOT, progress, store_url or "")
    if json:
        console.print_json({"evaluations": [e.model_dump(mode="json") for e in found]})
    else:
        console.print_table(evaluation_table(found))
