"""scikit-learn's digits as photographs, and backbones that have learned them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from stmdeploy import create_backbone
from stmdeploy.backbones.batches import LabelledFile, Reading
from stmdeploy.backbones.images import image_folder

CLASSES = 10


def write_digits(root: Path, which: slice, side: int = 64) -> Path:
    """Digits as pictures, a folder for each."""
    digits = load_digits()
    for i in range(len(digits.target))[which]:
        folder = root / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[i] * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).resize((side, side)).save(folder / f"{i:04}.png")
    return root


def images_in(folder: Path, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a folder of digits, and their classes."""
    found = image_folder(folder, CLASSES).files
    files = [LabelledFile(path, label, place) for place, (path, label) in enumerate(found)]
    (batch,) = Reading(len(files), (side, side), 2).batches(files, lambda *_: None)
    return torch.from_numpy(batch.images), torch.from_numpy(batch.labels)


def train(
    folder: Path,
    checkpoint: Path,
    stm: str,
    scale: str,
    side: int,
    steps: int = 80,
    batch: int = 64,
) -> Path:
    """Trains a backbone on the digits in a folder, and saves it as a checkpoint."""
    images, labels = images_in(folder, side)
    torch.manual_seed(0)
    model = create_backbone(stm, scale, image_size=side, num_classes=CLASSES).train()
    rate = 2e-3
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(steps):
        some = torch.randint(0, len(labels), (batch,))
        loss = cross_entropy(model(images[some]), labels[some])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    torch.save({"model": model.eval().state_dict()}, checkpoint)
    return checkpoint
