"""Names, aliases, scales and the published figures."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from stmdeploy import StmdeployError, create_backbone, list_backbones
from stmdeploy.backbones import catalogue as catalog
from stmdeploy.backbones.catalogue import CATALOG_VARIABLE, resolve
from tests.conftest import DATA


@pytest.mark.parametrize(
    ("stm", "scale", "name"),
    [
        ("halo", "micro", "unified_halo_micro"),
        ("halonet", "tiny", "unified_halo_tiny"),
        ("sra", "small", "unified_pvt_small"),
        ("pvt_v2", "base", "unified_pvt_v2_base"),
        ("swin", None, "unified_swin_tiny"),
        ("dwconv", "base", "unified_convnext_base"),
        ("dcnv3", "large", "unified_dcn_v3_large"),
        ("InternImage", "TINY", "unified_dcn_v3_tiny"),
        ("unified_dcn_v3_tiny", None, "unified_dcn_v3_tiny"),
        ("unified_dcn_v3_small", "small", "unified_dcn_v3_small"),
        ("official_swin_tiny", None, "official_swin_tiny"),
        ("official_pvt_v2_b0", None, "official_pvt_v2_b0"),
    ],
)
def test_resolve(stm: str, scale: str | None, name: str) -> None:
    assert resolve(stm, scale).name == name


@pytest.mark.parametrize(
    ("stm", "scale", "says"),
    [
        ("hallo", None, "did you mean 'halo'"),
        ("unified_dcn_v3_tyni", None, "did you mean 'unified_dcn_v3_tiny'"),
        ("resnet", None, "choose one of: halo"),
        ("halo", "large", "halo has no scale 'large'"),
        ("swin", "tny", "did you mean 'tiny'"),
        ("unified_dcn_v3_tiny", "small", "is of scale 'tiny'"),
    ],
)
def test_resolve_says_what_is_wrong(stm: str, scale: str | None, says: str) -> None:
    with pytest.raises(StmdeployError, match=says):
        resolve(stm, scale)


def test_published_figures_are_the_authors() -> None:
    with (DATA / "published.csv").open() as file:
        for line in csv.DictReader(file):
            config = resolve(line["official_name"])
            assert config == resolve(line["stm"], line["scale"])
            assert config.published is not None
            assert config.published.top1_percent == float(line["imagenet_top1"])
            assert config.published.box_ap_percent == float(line["coco_box_ap"])
            assert config.published.mask_ap_percent == float(line["coco_mask_ap"])
            assert config.checkpoint_url is not None
            assert config.checkpoint_url.endswith("/cls-ckpt/" + line["checkpoint_file"])


def test_every_family_comes_in_every_scale() -> None:
    unified = [name for name in list_backbones() if name.startswith("unified_")]
    own = [name for name in unified if name.endswith("_nano")]  # of tests/data/catalog.toml
    assert len(own) == 6
    assert len(unified) - len(own) == 6 * 4 + 1


@pytest.fixture
def own_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of further scales, which nobody has read yet."""
    path = tmp_path / "scales.toml"
    monkeypatch.setenv(CATALOG_VARIABLE, str(path))
    caches = (catalog._table, catalog._by_name, catalog._aliases)
    for one in caches:
        one.cache_clear()
    yield path
    for one in caches:
        one.cache_clear()


def test_scales_of_ones_own(own_catalog: Path) -> None:
    own_catalog.write_text("[convnext.scales.thin]\ndepths=[1,1,2,1]\ndims=[16,32,64,128]\n")
    config = resolve("dwconv", "thin")
    assert config.name == "unified_convnext_thin"
    assert config.published is None and config.checkpoint_url is None
    assert sum(p.numel() for p in create_backbone("convnext", "thin").parameters()) < 1e6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file"),
        ("[", "is not TOML"),
        ("[resnet.scales.x]", "unknown STM 'resnet'"),
        ("convnext = 3", "convnext holds no scales"),
        ("[convnext]\naliases=['x']", "convnext holds no scales"),
        ("[convnext.scales.micro]\ndepths=[1,1,1,1]\ndims=[8,8,8,8]", "exists already"),
        ("[convnext.scales.x]\ndepths=[1,1,1,1]", "needs depths, dims"),
        ("[swin.scales.x]\ndepths=[1,1,1,1]\ndims=[8,8,8,8]", "needs depths, dims, heads"),
        ("[convnext.scales.x]\ndepths=[1,1,1]\ndims=[8,8,8,8]", "write 4 whole numbers"),
        ("[convnext.scales.x]\ndepths=[1,1,1,1]\ndims=[8,8,8,1e9]", "write 4 whole numbers"),
        (
            "[dcn.scales.x]\ndepths=[1,1,1,1]\ndims=[8,8,8,8]\nheads=[3,1,1,1]",
            "not multiples of heads",
        ),
    ],
)
def test_what_is_no_scale(own_catalog: Path, text: str | None, says: str) -> None:
    if text is not None:
        own_catalog.write_text(text)
    with pytest.raises(StmdeployError, match=says):
        list_backbones()


def test_create_backbone_takes_an_official_name_and_any_number_of_classes() -> None:
    model = create_backbone("unified_convnext_micro", num_classes=7)
    assert not model.training
    assert model.head.out_features == 7
    with pytest.raises(StmdeployError, match="num_classes"):
        create_backbone("convnext", "micro", num_classes=0)
