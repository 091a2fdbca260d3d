"""`receptive-field`: what part of an image the stages of backbones see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stmdeploy.cli import console
from stmdeploy.cli.command import option
from stmdeploy.cli.options import (
    MEASURING,
    CheckpointOption,
    JsonOption,
    ModelOptions,
    PreparationOptions,
    StoreOptions,
)


@dataclass(frozen=True, kw_only=True)
class ReceptiveFieldOptions(
    JsonOption, StoreOptions, PreparationOptions, CheckpointOption, ModelOptions
):
    """Whose receptive fields, over which images."""

    data: Path | None = option(
        MEASURING, "Folder of photographs. [default: noise, which looks like none]"
    )
    images: int = option(MEASURING, "Photographs at most, taken evenly from all.", 16)
    contribution: str = option(
        MEASURING, "What a pixel contributes: its absolute gradient, or squared.", "absolute"
    )


def receptive_field(options: ReceptiveFieldOptions) -> None:
    """Measure effective receptive fields: the side of the square that holds 20, 30, 50 and 99 % of
    what an image contributes to the centre of every stage.

    Arrays and a picture of every model are written into the folder of the store; the figures are
    stored, and stand in reports beside the mixer's cost.
    """
    from stmdeploy.cli.requests import model_specs, open_store, preparation_of
    from stmdeploy.evaluate.receptive_field import (
        ReceptiveFieldSpec,
        measure_receptive_field,
        write_maps,
    )
    from stmdeploy.files.writing import writable
    from stmdeploy.report.receptive_field import receptive_field_table

    models = model_specs(options)
    spec = ReceptiveFieldSpec(
        options.data, options.images, options.contribution, preparation_of(options)
    )
    found, files = [], []
    with writable(options.folder), console.progress() as progress:
        progress.expect(2 * len(models))
        for model in models:
            seen = measure_receptive_field(spec, model, progress)
            progress.step(f"writing the maps of {model.label}")
            files += write_maps(seen, options.folder / "receptive-fields")
            store = open_store(options, create=True)
            store.add_receptive_field(seen.field)
            store.close()
            found.append(seen.field)
    document = {
        "receptive_fields": [one.model_dump(mode="json") for one in found],
        "files": [str(path) for path in files],
    }
    console.show(document, receptive_field_table(found), json=options.json)
    console.say(f"wrote {', '.join(str(path) for path in files if path.suffix == '.png')}")
