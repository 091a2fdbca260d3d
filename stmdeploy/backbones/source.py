"""Builds the module of a `ModelSpec`: from the catalogue, a user's callable, or timm."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from stmdeploy.backbones.catalogue import BackboneConfig, resolve
from stmdeploy.backbones.checkpoint import content_hash, load_checkpoint, source_name
from stmdeploy.backbones.network import build
from stmdeploy.backbones.synthetic import fill_synthetic
from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.progress import Progress
from stmdeploy.schema.manifest import ModelInfo, WeightsInfo
from stmdeploy.spec.model import ModelSpec

#: The value of `ModelSpec.checkpoint` that means the authors' weights.
OFFICIAL = "official"


@dataclass(frozen=True)
class BuiltModel:
    """A module with its weights, in eval mode, and what it is.

    ``config`` is None for a user's own model; ``official`` tells whether the weights are those that
    the authors publish.
    """

    module: nn.Module
    info: ModelInfo
    config: BackboneConfig | None
    official: bool


def build_module(spec: ModelSpec) -> nn.Module:
    """Builds the module of a spec, in eval mode, without its checkpoint.

    Raises:
        StmdeployError: unknown name, a size that the mixer cannot take, or a user's callable that
            cannot be imported, fails, or gives no module.
    """
    if not spec.is_custom:
        module: nn.Module = build(resolve(spec.name), spec.image_size, spec.head_classes)
        fill_synthetic(module, spec.seed)
        return module
    torch.manual_seed(spec.seed)
    return _custom_module(spec).eval()


def build_model(spec: ModelSpec, progress: Progress) -> BuiltModel:
    """Builds a model and loads its checkpoint, if it has one.

    Raises:
        StmdeployError: as `build_module` and `load_checkpoint`; no official weights exist; or a
            user's model does not give logits of the classes asked for.
    """
    progress.step(f"building {spec.name}")
    config = None if spec.is_custom else resolve(spec.name)
    spec = replace(spec, checkpoint=_checkpoint_source(spec, config))
    module = build_module(spec)
    file_hash = load_checkpoint(module, spec.checkpoint, progress) if spec.checkpoint else None
    made_of = spec.name if spec.is_custom else f"seed {spec.seed}"
    weights = WeightsInfo(
        kind="checkpoint" if spec.checkpoint else "own" if spec.is_custom else "synthetic",
        # Of a checkpoint the name alone: paths and URLs may hold what is nobody's business.
        source=source_name(spec.checkpoint) if spec.checkpoint else made_of,
        sha256=content_hash(module),
        checkpoint_sha256=file_hash,
    )
    info = ModelInfo(
        name=spec.name,
        stm=config.stm if config else "custom",
        scale=config.scale if config else "",
        image_size=spec.image_size,
        num_classes=_num_classes(module, spec) if spec.is_custom else spec.head_classes,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        weights=weights,
    )
    official = spec.checkpoint is not None and spec.checkpoint == (config and config.checkpoint_url)
    return BuiltModel(module, info, config, official)


def _checkpoint_source(spec: ModelSpec, config: BackboneConfig | None) -> str | None:
    if spec.checkpoint != OFFICIAL:
        return spec.checkpoint
    if config is None or config.checkpoint_url is None:
        raise StmdeployError(
            f"no official checkpoint is published for {spec.name}", "give a file or a URL"
        )
    return config.checkpoint_url


def _custom_module(spec: ModelSpec) -> nn.Module:
    package, _, name = spec.name.partition(":")
    factory = _timm_factory(name) if package == "timm" else _import_factory(package, name)
    try:
        module = factory(**_classes_argument(factory, spec))
    except (Exception, SystemExit) as error:
        raise StmdeployError(
            f"--model {spec.name}: the callable failed: {type(error).__name__}: {error}",
            "it is called without arguments and must return a torch.nn.Module",
        ) from error
    if not isinstance(module, nn.Module):
        raise StmdeployError(
            f"--model {spec.name} gives a {type(module).__name__}",
            "it must return a torch.nn.Module",
        )
    return module


def _import_factory(package: str, name: str) -> Callable[..., object]:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(package), name)
    except (Exception, SystemExit) as error:
        raise StmdeployError(
            f"--model {package}:{name} cannot be imported: {error}",
            "write package.module:callable; the working folder is searched first",
        ) from error
    if not callable(factory):
        raise StmdeployError(
            f"--model {package}:{name} is not callable", "name a function or class"
        )
    return factory  # type: ignore[no-any-return]


def _classes_argument(factory: Callable[..., object], spec: ModelSpec) -> dict[str, int]:
    """The argument ``num_classes``, if the spec sets it and the callable takes it."""
    if spec.num_classes is None:
        return {}
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # callables written in C may have no signature
        return {}
    takes = any(p.name == "num_classes" or p.kind is p.VAR_KEYWORD for p in parameters)
    return {"num_classes": spec.num_classes} if takes else {}


def _timm_factory(name: str) -> Callable[..., object]:
    try:
        import timm
    except ImportError as error:
        raise StmdeployError(
            f"--model timm:{name}: timm is not installed", "pip install timm"
        ) from error
    return partial(timm.create_model, name, pretrained=False)


def _num_classes(module: nn.Module, spec: ModelSpec) -> int:
    try:
        with torch.inference_mode():
            logits = module(torch.zeros(1, 3, *spec.image_size))
    except Exception as error:
        height, width = spec.image_size
        raise StmdeployError(
            f"--model {spec.name} fails on an image of {height}x{width} px: {error}",
            "it must map images N 3 H W to logits; try another --image-size",
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise StmdeployError(
            f"--model {spec.name} does not give logits of shape (N, classes)", "wrap it to do so"
        )
    found = int(logits.shape[1])
    if spec.num_classes not in (None, found):
        raise StmdeployError(
            f"--model {spec.name} gives {found} classes, not {spec.num_classes}",
            "leave --num-classes out, or let the callable take num_classes",
        )
    return found
