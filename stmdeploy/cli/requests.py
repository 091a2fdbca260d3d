"""From flags to specs: names resolved, sizes checked, before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stmdeploy.backbones.catalog import list_backbones, resolve
from stmdeploy.backbones.sizes import check_image_size
from stmdeploy.cli.options import numbers, words
from stmdeploy.errors import StmdeployError
from stmdeploy.results.row import Row
from stmdeploy.results.store import Store, SweepInfo
from stmdeploy.spec import (
    DEFAULT_CLASSES,
    EngineSpec,
    ModelSpec,
    RunSettings,
    RunSpec,
    ScenarioSpec,
    available_threads,
    parse_image_size,
)

#: The five spatial token mixers of the paper.
FIVE_STMS = ("halo", "pvt", "swin", "convnext", "dcn")
RESULTS_ROOT = Path("stmdeploy-results")
ARTIFACTS_ROOT = Path("stmdeploy-artifacts")


def model_specs(
    *,
    stm: list[str] | None,
    scale: list[str] | None,
    model: list[str] | None,
    image_size: list[str] | None,
    num_classes: int | None,
    checkpoint: str | None,
    default_scale: str = "tiny",
) -> tuple[ModelSpec, ...]:
    """Every combination asked for; the five STMs where no model is named.

    Raises:
        StmdeployError: unknown name or scale, a size that a mixer cannot take, or one
            checkpoint file for several models.
    """
    stms = words(stm) or ([] if words(model) else list(FIVE_STMS))
    scales = words(scale) or [default_scale]
    if scales == ["all"]:
        stms, scale = [name for word in stms for name in _all_scales(word)], None
    names = [name for word in stms for name in _official_names(word, scale, scales)]
    customs = words(model)
    for custom in customs:
        if ":" not in custom:
            raise StmdeployError(
                f"--model {custom} is not understood", "write package.module:callable or timm:NAME"
            )
    sizes = [parse_image_size(text) for text in words(image_size) or ["224"]]
    if checkpoint not in (None, "official") and len(names) + len(customs) > 1:
        raise StmdeployError(
            f"--checkpoint {checkpoint} cannot fit {len(names) + len(customs)} models",
            "name one --stm and one --scale",
        )
    # Of a model of the user's, nothing given means whatever it has.
    wanted = DEFAULT_CLASSES if num_classes is None else num_classes
    classes: dict[str, int | None] = {**dict.fromkeys(names, wanted)}
    classes |= dict.fromkeys(customs, num_classes)
    specs = tuple(
        ModelSpec(name, size, count, checkpoint)
        for name, count in classes.items()
        for size in sizes
    )
    for spec in specs:
        if not spec.is_custom:
            check_image_size(resolve(spec.name), spec.image_size)
    return specs


def _official_names(stm: str, scale: list[str] | None, scales: list[str]) -> list[str]:
    """The backbones of one ``--stm``; an official name is one, whatever the other scales."""
    if stm.lower() in list_backbones():
        given = words(scale)
        return [resolve(stm, given[0] if len(given) == 1 else None).name]
    if stm.lower().startswith("official_"):
        return [resolve(stm).name]
    return [resolve(stm, one).name for one in scales]


def _all_scales(stm: str) -> list[str]:
    """The official names of one STM, smallest first."""
    wanted = resolve(stm, "micro").stm
    configs = [resolve(name) for name in list_backbones() if not name.startswith("official_")]
    return [config.name for config in configs if config.stm == wanted]


def engine_spec(
    batch: list[str] | None,
    workspace_mib: int | None,
    builder_level: int | None,
    timing_cache: Path | None,
    compute_capabilities: list[str],
) -> EngineSpec:
    """What a builder is told; one batch alone is least, best and most.

    Raises:
        StmdeployError: not one or three growing batches, or a figure out of range.
    """
    batches = numbers(batch, "--batch", repeats=True) or [1, 8, 32]
    if len(batches) not in (1, 3):
        raise StmdeployError(
            f"--batch {','.join(map(str, batches))} is not understood", "give MIN,OPT,MAX or one"
        )
    least, best, most = batches * 3 if len(batches) == 1 else batches
    return EngineSpec(
        (least, best, most),
        workspace_mib,
        builder_level,
        timing_cache,
        tuple(compute_capabilities),
    )


def run_specs(
    runtimes: list[str],
    batches: list[int],
    threads: list[int],
    places: Sequence[Mapping[str, str]],
    settings: RunSettings,
    *,
    in_flight: Sequence[int] = (),
    scenarios: Sequence[ScenarioSpec] = (),
    pythons: Sequence[str] = (),
) -> tuple[RunSpec, ...]:
    """Every combination, place by place and runtime by runtime.

    Args:
        places: the fields of a run that say where it is, as `Devices` has them.

    Raises:
        StmdeployError: a figure out of range.
    """
    return tuple(
        RunSpec(
            runtime,
            batch,
            count,
            **place,
            settings=settings,
            in_flight=requests,
            python=python,
            scenario=scenario,
        )
        for place in places
        for python in pythons or [""]
        for runtime in runtimes
        for scenario in scenarios or [ScenarioSpec()]
        for count in threads or [available_threads()]
        for requests in in_flight or [1]
        for batch in batches
    )


def open_store(path: Path | None, url: str | None) -> Store:
    """The store of a server, or of a folder, or of `RESULTS_ROOT`.

    Raises:
        StmdeployError: there is none.
    """
    return Store(path or RESULTS_ROOT, url=url or "")


def store_of(word: str) -> Store:
    """A store that an argument names: a URL, a file or a folder.

    Raises:
        StmdeployError: there is none.
    """
    return Store(RESULTS_ROOT, url=word) if "://" in word else Store(Path(word))


def rows_of(store: Store, sweep: str | None) -> tuple[SweepInfo, tuple[Row, ...]]:
    """A sweep, the newest for None, and its rows.

    Raises:
        StmdeployError: no such sweep, or nothing is measured of it.
    """
    info = store.find_sweep(sweep)
    rows = store.rows(info.id)
    if not rows:
        raise StmdeployError(f"sweep {info.id} holds no rows yet", "go on: profile --resume")
    return info, rows
