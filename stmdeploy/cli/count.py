"""`count`: parameters and MACs of models."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stmdeploy.cli import console
from stmdeploy.cli.command import option
from stmdeploy.cli.options import OUTPUT, JsonOption, ModelOptions


@dataclass(frozen=True, kw_only=True)
class CountOptions(JsonOption, ModelOptions):
    """What is counted."""

    modules: bool = option(OUTPUT, "Also list the MACs of every module.", False)


def count(options: CountOptions) -> None:
    """Count parameters and MACs (multiply-accumulates, batch 1); name what was not counted."""
    from stmdeploy.backbones.complexity import COUNT_STEPS, count_model
    from stmdeploy.cli.requests import model_specs
    from stmdeploy.report.tables import count_table, module_table

    specs = model_specs(options)
    with console.progress() as progress:
        progress.expect(COUNT_STEPS * len(specs))
        counts = [(spec, count_model(spec, progress)) for spec in specs]
    figures = [
        {"model": s.name, "task": s.task, "neck": s.neck, "image_size": s.image_size, **asdict(c)}
        for s, c in counts
    ]
    named = [(spec.label, complexity) for spec, complexity in counts]
    modules = [module_table(*one) for one in named] if options.modules else []
    console.show({"counts": figures}, count_table(named), *modules, json=options.json)
