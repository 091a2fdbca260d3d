"""The backbones of the unified architecture, built by name; torch is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from stmdeploy.backbones.catalogue import list_backbones, resolve
from stmdeploy.spec.model import DETECTION, TASKS

if TYPE_CHECKING:
    from stmdeploy.backbones.catalogue import BackboneConfig
    from stmdeploy.backbones.network import Backbone, DetectionBackbone

__all__ = ["create_backbone", "list_backbones"]


@overload
def create_backbone(
    stm: str,
    scale: str = "tiny",
    *,
    image_size: int | tuple[int, int] = 224,
    num_classes: int = 1000,
    pretrained: bool | str = False,
    task: Literal["classification"] = "classification",
) -> Backbone: ...


@overload
def create_backbone(
    stm: str,
    scale: str = "tiny",
    *,
    image_size: int | tuple[int, int] = 224,
    num_classes: int = 1000,
    pretrained: bool | str = False,
    task: Literal["detection"],
) -> DetectionBackbone: ...


def create_backbone(
    stm: str,
    scale: str = "tiny",
    *,
    image_size: int | tuple[int, int] = 224,
    num_classes: int = 1000,
    pretrained: bool | str = False,
    task: str = "classification",
) -> Backbone | DetectionBackbone:
    """Builds a backbone, in eval mode; with initial weights unless `pretrained`.

    Args:
        stm: a family (``halo pvt pvt_v2 swin convnext dcn``), an alias, or an official name
            such as ``unified_dcn_v3_tiny``, which brings its own scale.
        scale: ``micro tiny small base``, for dcn also ``large``; not used with an official name.
        image_size: one side or (height, width), in pixels. Detection backbones take any sides that
            are multiples of 32, whatever is given here.
        num_classes: outputs of the classification head, at least 1.
        pretrained: whether to load the authors' weights, which are fetched once and kept; or
            a checkpoint's path or URL. Position embeddings are resampled to the image size.
        task: ``classification``, or ``detection`` for the authors' detection backbone, which is
            another network.

    Returns:
        A module with the official state_dict keys. ``model(x)`` maps N 3 H W to logits
        (N, num_classes), and ``model.forward_features(x)`` gives the four stage maps; of a
        detection backbone, both give the four normalised maps that a detector's neck takes.

    Raises:
        StmdeployError: unknown name, scale or task, a size that the mixer cannot take, no classes,
            or a family without a detection form; no such checkpoint, or one that does not fit.

    >>> create_backbone("convnext", "micro")(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 1000])
    """
    from stmdeploy.backbones.network import build, build_detection
    from stmdeploy.errors import StmdeployError, nearest
    from stmdeploy.spec.limits import at_least

    if task not in TASKS:
        raise StmdeployError(f"unknown task {task!r}", nearest(task, TASKS))
    at_least(1, num_classes, "num_classes")
    config = resolve(stm, None if stm.strip().lower() in list_backbones() else scale)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if task == DETECTION:
        module: Backbone | DetectionBackbone = build_detection(config, size)
    else:
        module = build(config, size, num_classes)
    if pretrained:
        _load(module, config, task, pretrained)
    return module


def _load(
    module: Backbone | DetectionBackbone, config: BackboneConfig, task: str, source: bool | str
) -> None:
    from stmdeploy.backbones.checkpoint import load_checkpoint
    from stmdeploy.errors import StmdeployError
    from stmdeploy.plugins.progress import Silent

    official = config.detector_url if task == DETECTION else config.checkpoint_url
    found = official if source is True else source
    if not found:
        raise StmdeployError(
            f"no official checkpoint is published for {config.name}", "give a file or a URL"
        )
    load_checkpoint(module, str(found), Silent())
