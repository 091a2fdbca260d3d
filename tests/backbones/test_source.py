"""Models from outside the catalogue, and what is recorded of a model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from stmdeploy import StmdeployError, create_backbone
from stmdeploy.backbones.source import OneOutput, build_model
from stmdeploy.plugins.progress import Silent
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.preparation import STANDARD, Preparation
from tests.fakes import RecordedProgress

RIVAL = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 11))
def features():
    return nn.Conv2d(3, 8, 3)
def broken():
    raise ValueError("no weights\\nfound")
def leaves():
    raise SystemExit(0)
def number():
    return 3
value = 4
"""


@pytest.fixture
def rival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"rival_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(RIVAL)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_callable_becomes_a_model(rival: str, progress: RecordedProgress) -> None:
    built = build_model(ModelSpec(f"{rival}:net", image_size=(64, 96)), progress)
    assert built.info.num_classes == 11
    assert built.info.stm == "custom"
    assert built.info.weights.kind == "own"
    assert not built.module.training
    again = build_model(ModelSpec(f"{rival}:net", image_size=(64, 96)), progress)
    assert again.info.weights.sha256 == built.info.weights.sha256


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere:net", "cannot be imported"),
        ("{rival}:missing", "cannot be imported"),
        ("{rival}:value", "is not callable"),
        ("{rival}:number", "gives a int"),
        ("{rival}:broken", "the callable failed: ValueError"),
        ("{rival}:leaves", "the callable failed: SystemExit"),
        ("{rival}:features", "does not give logits"),
        ("timm:resnet18", "timm is not installed"),
    ],
)
def test_what_is_wrong_with_a_callable(
    rival: str, name: str, says: str, progress: RecordedProgress
) -> None:
    with pytest.raises(StmdeployError, match=says):
        build_model(ModelSpec(name.format(rival=rival)), progress)


def test_one_output_of_several_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: RecordedProgress
) -> None:
    """As detectors and models of transformers give them: dictionaries, tuples, objects."""
    (tmp_path / "many_outputs.py").write_text(
        "import torch\n"
        "from types import SimpleNamespace\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, kind):\n"
        "        super().__init__()\n"
        "        self.kind, self.head = kind, torch.nn.Linear(3, 5)\n"
        "    def forward(self, x):\n"
        "        logits, features = self.head(x.mean((2, 3))), x\n"
        "        if self.kind == 'dict':\n"
        "            return {'features': features, 'logits': logits}\n"
        "        if self.kind == 'tuple':\n"
        "            return features, (logits,)\n"
        "        if self.kind == 'list':\n"
        "            return [features, logits]\n"
        "        return SimpleNamespace(logits=logits)\n"
        "def given(): return Net('dict')\n"
        "def nested(): return Net('tuple')\n"
        "def listed(): return Net('list')\n"
        "def objects(): return Net('object')\n"
    )
    monkeypatch.chdir(tmp_path)
    size = (8, 8)
    for name, output in (("given", "logits"), ("listed", "1"), ("objects", "logits")):
        spec = ModelSpec(f"many_outputs:{name}", size, output=output)
        built = build_model(spec, progress)
        assert built.info.num_classes == 5
        checkpoint = tmp_path / "inner.pth"
        assert isinstance(built.module, OneOutput)
        torch.save(built.module.module.state_dict(), checkpoint)
        again = build_model(replace(spec, checkpoint=str(checkpoint)), progress)
        assert again.info.weights.kind == "checkpoint"
    for name, output, says in (
        ("given", "", r"a dict of features: a tensor of shape \(1, 3, 8, 8\), logits: a tensor"),
        ("nested", "", r"a tuple of 0: a tensor .*, 1: a tuple of 0: a tensor of shape \(1, 5\)"),
        ("given", "scores", "has no output 'scores': it gives a dict of features"),
        ("listed", "2", "has no output '2': it gives a list of 0: a tensor"),
        ("given", "features", r"but a tensor of shape \(1, 3, 8, 8\)"),
        ("objects", "", "a SimpleNamespace"),
    ):
        with pytest.raises(StmdeployError, match=says):
            build_model(ModelSpec(f"many_outputs:{name}", size, output=output), progress)


def test_synthetic_weights_depend_on_the_seed_alone(progress: RecordedProgress) -> None:
    def digest(seed: int) -> str:
        spec = ModelSpec("unified_convnext_micro", seed=seed)
        return build_model(spec, progress).info.weights.sha256

    assert digest(0) == digest(0)
    assert digest(0) != digest(1)


def test_timm_models_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: RecordedProgress
) -> None:
    """timm itself drags in another torch build; a package with its call stands in."""
    (tmp_path / "timm.py").write_text(
        "from torch import nn\n"
        "def create_model(name, pretrained, num_classes=1000):\n"
        "    if name != 'resnet18' or pretrained:\n"
        "        raise RuntimeError(f'Unknown model ({name})')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    spec = ModelSpec("timm:resnet18", image_size=(2, 2), num_classes=7)
    assert build_model(spec, progress).info.num_classes == 7
    assert (
        build_model(ModelSpec("timm:resnet18", image_size=(2, 2)), progress).info.num_classes
        == 1000
    )
    with pytest.raises(StmdeployError, match=r"Unknown model \(resnet99\)"):
        build_model(ModelSpec("timm:resnet99"), progress)
    monkeypatch.delitem(sys.modules, "timm")


def test_only_the_authors_file_is_official(tmp_path: Path, progress: RecordedProgress) -> None:
    path = tmp_path / "unified_convnext_micro.pth"
    torch.save(create_backbone("convnext", "micro").state_dict(), path)
    built = build_model(ModelSpec("unified_convnext_micro", checkpoint=str(path)), progress)
    assert built.info.weights.kind == "checkpoint"
    assert not built.official


CLASSES = """
from torch import nn

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))

def asked(num_classes=9):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))
"""


def test_classes_of_a_users_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: RecordedProgress
) -> None:
    """`--num-classes` beside `--model` is passed on or refused, never ignored."""
    (tmp_path / "class_rivals.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(str(tmp_path))

    def classes(name: str, count: int | None) -> int | None:
        spec = ModelSpec(f"class_rivals:{name}", image_size=(2, 2), num_classes=count)
        return build_model(spec, progress).info.num_classes

    assert classes("fixed", None) == 5
    assert classes("fixed", 5) == 5
    assert classes("asked", None) == 9
    assert classes("asked", 7) == 7
    with pytest.raises(StmdeployError, match="gives 5 classes, not 7; leave --num-classes out"):
        classes("fixed", 7)


class Configured(nn.Module):
    """As timm's models are: it says how photographs are prepared for it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.pretrained_cfg = {
            "mean": (0.5, 0.5, 0.5), "std": [0.25, 0.5, 1.0], "crop_pct": 0.95,
            "interpolation": "bilinear", "input_size": (3, 32, 32),
        }  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N 3 H W -> N 5."""
        logits: torch.Tensor = self.layer(x.mean((2, 3)))
        return logits


class Odd(Configured):
    """One whose configuration is not understood."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"interpolation": "random", "mean": "none"}


def test_a_model_says_how_photographs_are_prepared() -> None:
    def prepared(name: str) -> Preparation:
        spec = ModelSpec(f"tests.backbones.test_source:{name}", (32, 32))
        return build_model(spec, Silent()).info.preparation

    assert prepared("Configured") == Preparation(
        (0.5, 0.5, 0.5), (0.25, 0.5, 1.0), crop=0.95, interpolation="bilinear"
    )
    assert prepared("Odd") == STANDARD
