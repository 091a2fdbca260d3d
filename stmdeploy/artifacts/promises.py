"""What is promised to work: a yes, or a no and why, for every combination of backbone, target,
precision, lowering and task. ``promises.toml`` is the table; `stmdeploy list promises`, the tests
and `make nightly` read it, and exports follow it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import Literal

from pydantic import BaseModel, ConfigDict

from stmdeploy.backbones.catalogue import BackboneConfig, list_backbones, resolve
from stmdeploy.backbones.lowering import forms_of
from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.exporter import Exporter
from stmdeploy.plugins.registry import exporters
from stmdeploy.spec.export import (
    HIGHEST_INT8_OPSET,
    LOWERINGS,
    LOWEST_OPSET,
    PRECISIONS,
    QUANTISED,
    REFERENCE,
    ExportSpec,
)
from stmdeploy.spec.model import CLASSIFICATION, DETECTION, TASKS


class _Claim(BaseModel):
    """An entry of the table; an empty tuple matches everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    precision: tuple[str, ...] = ()
    lowering: tuple[str, ...] = ()
    stm: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    layout: tuple[str, ...] = ()
    provider: tuple[str, ...] = ()
    default: bool | None = None
    versions: dict[str, str] = {}
    claim: Literal["no", "untried"]
    why: str


@dataclass(frozen=True)
class Promise:
    """One combination; ``claim`` is yes, no or untried, and ``why`` is empty for a yes."""

    model: str
    target: str
    precision: str
    lowering: str
    task: str
    claim: str
    why: str


@cache
def _claims() -> tuple[_Claim, ...]:
    text = resources.files("stmdeploy.artifacts").joinpath("promises.toml").read_text("utf-8")
    return tuple(_Claim.model_validate(entry) for entry in tomllib.loads(text)["claim"])


def promise(
    config: BackboneConfig,
    exporter: Exporter,
    precision: str,
    lowering: str,
    task: str = CLASSIFICATION,
) -> Promise:
    """What is promised of one combination."""
    kinds = _kinds(config, exporter, precision, lowering, task)
    default = default_form(config, exporter, precision, task) == lowering
    found = next((e for e in _claims() if e.default in (None, default) and _fits(e, kinds)), None)
    claim, why = (found.claim, _reason(found)) if found is not None else ("yes", "")
    if claim != "no" and (lacking := _lacking(config, exporter, precision, lowering, task)):
        claim, why = "no", lacking
    return Promise(config.name, exporter.target.name, precision, lowering, task, claim, why)


def _lacking(
    config: BackboneConfig, exporter: Exporter, precision: str, lowering: str, task: str
) -> str:
    """What there is not, so that a combination cannot be; empty if nothing is missing."""
    target = exporter.target
    if task == DETECTION and config.detection is None:
        return "the authors have no detection form of it"
    if lowering not in forms_of(config):
        return f"nobody has written the form {lowering} of {config.mixer} yet"
    if precision not in target.tolerances:
        return f"target {target.name} does not write {precision}"
    if lowering not in exporter.lowerings:
        return f"target {target.name} does not take the form {lowering}"
    return ""


def promises() -> Iterator[Promise]:
    """Every combination of the catalogue and the installed exporters."""
    kinds = (list_backbones(), exporters().values(), PRECISIONS, LOWERINGS, TASKS)
    for name, exporter, precision, lowering, task in product(*kinds):
        yield promise(resolve(name), exporter, precision, lowering, task)


def forms_for(
    config: BackboneConfig | None,
    exporter: Exporter,
    precision: str,
    opset: int | None = None,
    provider: str = "",
) -> list[str]:
    """The forms that a model can be exported in, the best first.

    Args:
        config: None for a user's own model, which has the reference form alone.
        opset: the ONNX opset that was asked for; None for the one that each form needs.
        provider: as in `ExportSpec`.
    """
    has = forms_of(config) if config is not None else (REFERENCE,)
    highest = max(LOWEST_OPSET.values()) if opset is None else opset
    if precision in QUANTISED:
        highest = min(highest, HIGHEST_INT8_OPSET)
    lowerings = exporter.lowerings_on(provider)
    forms = [f for f in lowerings if f in has and LOWEST_OPSET[f] <= highest]
    return forms or [REFERENCE]


def default_form(
    config: BackboneConfig, exporter: Exporter, precision: str, task: str = CLASSIFICATION
) -> str:
    """The form that a target takes unless told otherwise: the best that is not known to fail."""
    forms = forms_for(config, exporter, precision)
    return next((f for f in forms if not why_not(config, exporter, precision, f, task)), forms[0])


def why_not(
    config: BackboneConfig,
    exporter: Exporter,
    precision: str,
    lowering: str,
    task: str = CLASSIFICATION,
    provider: str = "",
) -> str:
    """Why a form is known to fail; empty if it is not."""
    kinds = {**_kinds(config, exporter, precision, lowering, task), "provider": provider}
    of_forms = (e for e in _claims() if e.claim == "no" and e.lowering and e.default is None)
    return next((_reason(entry) for entry in of_forms if _fits(entry, kinds)), "")


def check_precision(exporter: Exporter, precision: str, provider: str = "") -> None:
    """Raises StmdeployError, with the reason, if a target cannot write a precision, or a provider
    of ONNX Runtime not compute in it."""
    for entry in _claims():
        if provider in entry.provider and precision in entry.precision and not entry.lowering:
            raise StmdeployError(entry.why, "take --precision fp16, or another --runtime")
    if precision in exporter.target.tolerances:
        return
    whys = [
        f": {entry.why}"
        for entry in _claims()
        if exporter.target.name in entry.target
        and precision in entry.precision
        and not entry.lowering
    ]
    raise StmdeployError(
        f"target {exporter.target.name!r} has no precision {precision!r}{''.join(whys[:1])}",
        f"choose one of: {', '.join(exporter.target.tolerances)}",
    )


def check_keep(exporter: Exporter, spec: ExportSpec) -> None:
    """Raises StmdeployError if parts are to be kept that a target or a precision cannot keep."""
    if spec.keep:
        check_mixes(exporter, spec.precision)


def check_mixes(exporter: Exporter, precision: str) -> None:
    """Raises StmdeployError if a target cannot leave parts as they are in a precision."""
    target = exporter.target
    if precision not in target.mixes:
        able = ", ".join(target.mixes)
        raise StmdeployError(
            f"target {target.name!r} keeps no parts of a model apart in {precision}",
            f"choose one of: {able}" if able else "choose one precision for all of it",
        )


def check_dynamic_size(exporter: Exporter, spec: ExportSpec) -> None:
    """Raises StmdeployError if a dynamic size is asked for that a target or a form cannot have."""
    if not spec.dynamic_size:
        return
    if not exporter.target.dynamic_size:
        able = ", ".join(name for name, one in exporters().items() if one.target.dynamic_size)
        raise StmdeployError(
            f"target {exporter.target.name!r} writes no file for images of any size",
            f"leave --dynamic-size out, or choose one of: {able}",
        )
    if spec.lowering not in (None, REFERENCE):
        raise StmdeployError(
            f"form {spec.lowering!r} is of one image size: it folds what follows from it",
            "leave --lowering out, or --dynamic-size",
        )
    if spec.model.is_custom:
        raise StmdeployError(
            f"--dynamic-size takes the catalogue's backbones, not {spec.model.name}",
            "leave --dynamic-size out",
        )


def _kinds(
    config: BackboneConfig, exporter: Exporter, precision: str, lowering: str, task: str
) -> dict[str, str]:
    """A combination, by the names that entries of the table match."""
    return {
        "task": task,
        "target": exporter.target.name,
        "precision": precision,
        "lowering": lowering,
        "stm": config.stm,
        "model": config.name,
        "layout": config.layout,
        "provider": "",
    }


def _fits(entry: _Claim, kinds: dict[str, str]) -> bool:
    """Whether an entry matches a combination and the installed versions."""
    named = {key: getattr(entry, key) for key in kinds}
    if any(words and kinds[key] not in words for key, words in named.items()):
        return False
    try:
        return all(version(package) == wanted for package, wanted in entry.versions.items())
    except PackageNotFoundError:
        return False


def _reason(entry: _Claim) -> str:
    named = ", ".join(f"{package} {number}" for package, number in entry.versions.items())
    return entry.why + (f" (with {named})" if named else "")
