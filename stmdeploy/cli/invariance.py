"""`invariance`: how little artifacts mind that photographs are moved, turned or resized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stmdeploy.cli import console
from stmdeploy.cli.command import REQUIRED, Words, argument, many, option
from stmdeploy.cli.options import (
    MEASURING,
    OUTPUT,
    ImagesOptions,
    JsonOption,
    StoreOptions,
    TrustOption,
)


@dataclass(frozen=True, kw_only=True)
class InvarianceOptions(JsonOption, TrustOption, StoreOptions, ImagesOptions):
    """Which artifacts, over which images, to which transforms."""

    artifacts: tuple[Path, ...] = argument("Main files of the artifacts.", REQUIRED)
    transform: Words = many(
        MEASURING,
        "Transforms: translation by 0 to 64 px of 224; rotation, and rotation-after the crop, by 0 "
        "to 90 degrees; scale by crop ratios 0.2 to 1.95. [default: all four]",
    )
    protocol: str = option(
        MEASURING,
        "clean; or authors, as the script of the paper's authors does it: in seven of eight "
        "directions, and centred again past the margin.",
        "clean",
    )
    labels: bool = option(
        MEASURING,
        "Whether the folders of --data are classes; without labels, consistency is measured alone.",
        True,
        flag="--labels/--no-labels",
    )
    seed: int = option(MEASURING, "Seed of the directions that content moves in.", 0)
    figure: Path | None = option(OUTPUT, "Draw the curves into this file: .png, .svg or .pdf.")


def invariance(options: InvarianceOptions) -> None:
    """Measure how often artifacts keep their answer when a photograph is moved, turned, or nearer
    or farther; with top-1, top-5 and cross-entropy at every level.

    Name the same model in several precisions, fp32 among them, to see what a precision costs. The
    figures are stored, and stand in reports; what was ended goes on when the same is asked again.
    """
    from stmdeploy.cli.requests import images_spec
    from stmdeploy.evaluate.invariance import InvarianceSpec, measure_invariance
    from stmdeploy.report.invariance import (
        check_figure,
        invariance_table,
        write_invariance_figure,
    )
    from stmdeploy.spec.limits import at_least
    from stmdeploy.spec.views import TRANSFORMS, ViewSpec

    at_least(0, options.seed, "seed")
    if options.figure is not None:
        check_figure(options.figure)
    spec = InvarianceSpec(
        options.artifacts,
        **images_spec(options, trust=options.trust, labelled=options.labels),
        views=ViewSpec(options.transform or tuple(TRANSFORMS), options.protocol, options.seed),
    )
    with console.progress() as progress:
        found = measure_invariance(spec, options.folder, progress, options.store_url or "")
    if options.figure is not None:
        write_invariance_figure(found, options.figure)
        console.say(f"wrote {options.figure}")
    document = {"invariances": [one.model_dump(mode="json") for one in found]}
    console.show(document, invariance_table(found), json=options.json)
