"""Builds the module of a `ModelSpec`: from the catalogue, a user's callable, or timm."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from stmdeploy.backbones.catalogue import STRIDES, BackboneConfig, check_model, resolve
from stmdeploy.backbones.checkpoint import (
    content_hash,
    load_checkpoint,
    load_strictly,
    source_name,
)
from stmdeploy.backbones.mixers import block_of
from stmdeploy.backbones.neck import CHANNELS, BackboneWithNeck, FeaturePyramid
from stmdeploy.backbones.network import Backbone, build, build_detection
from stmdeploy.backbones.synthetic import fill_synthetic
from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.progress import Progress
from stmdeploy.schema.manifest import ModelInfo, TensorInfo, WeightsInfo
from stmdeploy.spec.model import CLASSIFICATION, DETECTION, OUTPUT_NAMES, ModelSpec
from stmdeploy.spec.preparation import STANDARD, Preparation

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

    def outputs(self, *, dynamic_size: bool = False) -> tuple[TensorInfo, ...]:
        """What the module gives, in its order: logits, or the maps that a detector takes.

        Args:
            dynamic_size: whether sides stand as they follow from those of the image.
        """
        names = OUTPUT_NAMES[self.info.task, self.info.neck]
        if self.info.num_classes is not None:
            return (_float32(names[0], (self.info.num_classes,)),)
        assert self.config is not None
        channels = (CHANNELS,) * len(names) if self.info.neck else self.config.dims
        shapes = []
        for i, count in enumerate(channels):
            stride = STRIDES[0] << i
            sides: tuple[int | str, ...] = tuple(-(-s // stride) for s in self.info.pixels)
            if dynamic_size:
                sides = f"height/{stride}", f"width/{stride}"
            shapes.append((count, *sides))
        return tuple(map(_float32, names, shapes))

    def at(self, image_size: tuple[int, int]) -> nn.Module:
        """The same model for images of another size: its weights are resampled as the authors do.

        Raises:
            StmdeployError: the mixer cannot take images of that size.
        """
        assert self.config is not None
        check_model(self.config, self.info.task, image_size)
        if self.info.num_classes is None:
            return self.module
        module = build(self.config, image_size, self.info.num_classes)
        load_strictly(module, self.module.state_dict(), self.info.name)
        return module

    def of_any_size(self) -> nn.Module:
        """The same model for images of any size, in one module.

        Raises:
            StmdeployError: it has no such form.
        """
        if self.info.num_classes is None:
            return self.module
        config = self.config
        if config is None or config.any_size is None:
            other = config is not None and config.detection is not None
            raise StmdeployError(
                f"{self.info.name} takes images of one size only",
                "leave --dynamic-size out" + (", or give --task detection" if other else ""),
            )
        with torch.no_grad():
            module = Backbone(
                config, self.info.pixels, self.info.num_classes, block_of(config.any_size)
            )
        module.load_state_dict(self.module.state_dict())
        return module.eval()


def _float32(name: str, shape: tuple[int | str, ...]) -> TensorInfo:
    return TensorInfo(name=name, dtype="float32", shape=("batch", *shape))


def build_module(spec: ModelSpec) -> nn.Module:
    """Builds the module of a spec, in eval mode, without its checkpoint.

    Raises:
        StmdeployError: unknown name, a size that the mixer cannot take, or a user's callable that
            cannot be imported, fails, or gives no module.
    """
    if not spec.is_custom:
        module = _catalogue_module(spec)
        fill_synthetic(module, spec.seed)
        return module
    torch.manual_seed(spec.seed)
    return _custom_module(spec).eval()


def _catalogue_module(spec: ModelSpec) -> nn.Module:
    config = resolve(spec.name)
    if spec.task == CLASSIFICATION:
        return build(config, spec.image_size, spec.head_classes)
    backbone = build_detection(config, spec.image_size)
    return BackboneWithNeck(backbone, FeaturePyramid(config.dims)) if spec.neck else backbone


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
    inner = module.module if isinstance(module, OneOutput) else module
    file_hash = load_checkpoint(inner, spec.checkpoint, progress) if spec.checkpoint else None
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
        task=spec.task,
        neck=spec.neck,
        num_classes=_num_classes(module, spec),
        preparation=_own_preparation(module),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        weights=weights,
    )
    official = spec.checkpoint is not None and spec.checkpoint == _official_url(spec, config)
    return BuiltModel(module, info, config, official)


def built_of(
    module: nn.Module, image_size: tuple[int, int], num_classes: int | None = None
) -> tuple[BuiltModel, ModelSpec]:
    """A module that somebody has made, with its weights, and the spec that stands for it.

    Args:
        module: maps images to logits; it is copied. A backbone of the catalogue has the image size
            that it was built for.
        num_classes: how many it must have; None for any.

    Raises:
        StmdeployError: it does not give logits.
    """
    copied = copy.deepcopy(module).to("cpu", torch.float32).eval()
    config = copied.config if isinstance(copied, Backbone) else None
    if isinstance(copied, Backbone):
        image_size = copied.image_size
    kind = type(module)
    name = config.name if config else f"{kind.__module__}:{kind.__qualname__}"
    spec = ModelSpec(name, image_size, num_classes)
    logits = replace(spec, name=f"{kind.__module__}:{kind.__qualname__}")
    info = ModelInfo(
        name=name,
        stm=config.stm if config else "custom",
        scale=config.scale if config else "",
        image_size=image_size,
        num_classes=_num_classes(copied, logits),
        preparation=_own_preparation(copied),
        parameters=sum(parameter.numel() for parameter in copied.parameters()),
        weights=WeightsInfo(kind="own", source=kind.__qualname__, sha256=content_hash(copied)),
    )
    spec = replace(spec, num_classes=info.num_classes)
    return BuiltModel(copied, info, config, official=False), spec


def _checkpoint_source(spec: ModelSpec, config: BackboneConfig | None) -> str | None:
    if spec.checkpoint != OFFICIAL:
        return spec.checkpoint
    url = _official_url(spec, config)
    if url is None:
        raise StmdeployError(
            f"no official checkpoint is published for {spec.label}", "give a file or a URL"
        )
    return url


def _official_url(spec: ModelSpec, config: BackboneConfig | None) -> str | None:
    if config is None:
        return None
    return config.checkpoint_url if spec.task == CLASSIFICATION else config.detector_url


def _own_preparation(module: nn.Module) -> Preparation:
    """How a model says that photographs are prepared for it: as timm's models do, by the dictionary
    ``pretrained_cfg``; the standard one if it does not, or not understandably."""
    told = getattr(module, "pretrained_cfg", None)
    if not isinstance(told, Mapping):
        return STANDARD
    try:
        mean, std = (
            tuple(map(float, told.get(name) or getattr(STANDARD, name))) for name in ("mean", "std")
        )
        return Preparation(
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            crop=float(told.get("crop_pct") or STANDARD.crop),
            interpolation=str(told.get("interpolation") or STANDARD.interpolation),
        )
    except (StmdeployError, TypeError, ValueError, IndexError):
        return STANDARD


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
    return OneOutput(module, spec.output) if spec.output else module


class OneOutput(nn.Module):
    """A module of several outputs, of which one is taken.

    Args:
        output: its key, or its index.
    """

    def __init__(self, module: nn.Module, output: str) -> None:
        super().__init__()
        self.module, self.output = module, output

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images N 3 H W -> that output."""
        given = self.module(images)
        if isinstance(given, Mapping):
            return given[self.output]  # type: ignore[no-any-return]
        if isinstance(given, (tuple, list)) and self.output.lstrip("-").isdecimal():
            return given[int(self.output)]  # type: ignore[no-any-return]
        return getattr(given, self.output)  # type: ignore[no-any-return]


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


def _fails(spec: ModelSpec, error: Exception) -> StmdeployError:
    height, width = spec.image_size
    return StmdeployError(
        f"--model {spec.name} fails on an image of {height}x{width} px: {error}",
        "it must map images N 3 H W to logits; try another --image-size",
    )


def _described(given: object) -> str:
    """What a model gave, in words: types, keys and shapes."""
    if isinstance(given, torch.Tensor):
        return f"a tensor of shape {tuple(given.shape)}"
    name = type(given).__name__
    if isinstance(given, Mapping):
        inside = ", ".join(f"{key}: {_described(value)}" for key, value in given.items())
        return f"a {name} of {inside or 'nothing'}"
    if isinstance(given, (tuple, list)):
        inside = ", ".join(f"{i}: {_described(value)}" for i, value in enumerate(given))
        return f"a {name} of {inside or 'nothing'}"
    return f"a {name}"


def _timm_factory(name: str) -> Callable[..., object]:
    try:
        import timm
    except ImportError as error:
        raise StmdeployError(
            f"--model timm:{name}: timm is not installed", "pip install timm"
        ) from error
    return partial(timm.create_model, name, pretrained=False)


def _num_classes(module: nn.Module, spec: ModelSpec) -> int | None:
    if spec.task == DETECTION:
        return None
    if not spec.is_custom:
        return spec.head_classes
    try:
        with torch.inference_mode():
            logits = module(torch.zeros(1, 3, *spec.image_size))
    except (AttributeError, KeyError, IndexError) as error:
        if not isinstance(module, OneOutput):
            raise _fails(spec, error) from error
        with torch.inference_mode():
            every = module.module(torch.zeros(1, 3, *spec.image_size))
        raise StmdeployError(
            f"--model {spec.name} has no output {spec.output!r}: it gives {_described(every)}",
            "give --output a key or an index of these",
        ) from error
    except Exception as error:
        raise _fails(spec, error) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise StmdeployError(
            f"--model {spec.name} does not give logits of shape (N, classes), but "
            f"{_described(logits)}",
            "wrap it to do so"
            if isinstance(logits, torch.Tensor)
            else "name the output to take, as in --output logits or --output 0",
        )
    found = int(logits.shape[1])
    if spec.num_classes not in (None, found):
        raise StmdeployError(
            f"--model {spec.name} gives {found} classes, not {spec.num_classes}",
            "leave --num-classes out, or let the callable take num_classes",
        )
    return found
