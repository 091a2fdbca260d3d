"""`inspect`: what an artifact is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from stmdeploy.cli import console
from stmdeploy.cli.command import REQUIRED, argument, option
from stmdeploy.cli.options import OUTPUT, JsonOption, TaskOption
from stmdeploy.cli.outside import InputOption
from stmdeploy.errors import StmdeployError


@dataclass(frozen=True, kw_only=True)
class InspectOptions(JsonOption, InputOption, TaskOption):
    """What is looked at."""

    artifact: Path = argument("Main file of an artifact; or a model that you have.", REQUIRED)
    layers: bool = option(OUTPUT, "Also list an engine's fused layers.", False)


def inspect(options: InspectOptions) -> None:
    """Verify an artifact's hashes; show what it is, and where its MACs and bytes are."""
    from stmdeploy.cli.outside import as_artifacts
    from stmdeploy.cli.requests import check_task
    from stmdeploy.report.artifact import artifact_tables, engine_layers, layer_table
    from stmdeploy.schema.artifact import read_artifact

    task = check_task(options.task)
    with (
        console.progress() as progress,
        as_artifacts([options.artifact], options.input, "", progress) as (path,),
    ):
        read = replace(read_artifact(path), path=options.artifact)
    if task not in (None, read.manifest.model.task):
        raise StmdeployError(
            f"{options.artifact} is of {read.manifest.model.task}, not of {task}",
            "leave --task out, or name another artifact",
        )
    if options.layers and read.manifest.engine is None:
        raise StmdeployError(
            f"{options.artifact} is not an engine and has no fused layers", "leave --layers out"
        )
    document = {"path": str(options.artifact), **read.manifest.model_dump(mode="json")}
    tables = list(artifact_tables(read))
    if options.layers:
        layers = engine_layers(read)
        document["layers"] = [one.model_dump() for one in layers]
        tables.append(layer_table(layers))
    console.show(document, *tables, json=options.json)
