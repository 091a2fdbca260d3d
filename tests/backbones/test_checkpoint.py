"""Checkpoints: what loads, what is refused, and that nothing in them runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from stmdeploy import StmdeployError, create_backbone
from stmdeploy.backbones import catalogue
from stmdeploy.backbones.catalogue import list_backbones, resolve
from stmdeploy.backbones.checkpoint import (
    cache_folder,
    load_checkpoint,
    load_strictly,
    read_state_dict,
    resample,
)
from stmdeploy.backbones.neck import FeaturePyramid
from stmdeploy.backbones.source import build_model
from stmdeploy.backbones.synthetic import fill_synthetic
from stmdeploy.spec.model import ModelSpec
from tests.fakes import RecordedProgress


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = create_backbone("convnext", "micro")
    fill_synthetic(model, seed=3)
    path = tmp_path_factory.mktemp("checkpoint") / "convnext.pth"
    torch.save({"model": model.state_dict(), "epoch": 300}, path)
    return path


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """A local web server: path -> body, or a status code, or (body, bytes to hold back)."""
    pages: dict[str, object] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path, 404)
            if isinstance(page, int):
                self.send_error(page)
                return
            body, held_back = page if isinstance(page, tuple) else (page, 0)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) - held_back])

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pages["url"] = f"http://127.0.0.1:{server.server_port}"
    yield pages
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("wrapped", [True, False])
def test_loads_bare_and_under_model(
    checkpoint: Path, tmp_path: Path, wrapped: bool, progress: RecordedProgress
) -> None:
    state = torch.load(checkpoint, weights_only=True)["model"]
    path = tmp_path / "x.pth"
    torch.save({"model": state} if wrapped else state, path)
    model = create_backbone("convnext", "micro")
    load_checkpoint(model, str(path), progress)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_derived_buffers_of_older_files_are_dropped(tmp_path: Path) -> None:
    model = create_backbone("swin", "micro")
    state = model.state_dict()
    state["stages.0.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    state["stages.0.1.attn_mask"] = torch.zeros(64, 49, 49)
    torch.save(state, tmp_path / "x.pth")
    load_strictly(model, read_state_dict(tmp_path / "x.pth"), "x.pth")


def test_every_kind_of_misfit_is_named() -> None:
    model = create_backbone("convnext", "micro")
    state = dict(model.state_dict())
    state["head.weight"] = torch.zeros(10, 384)
    del state["stages.0.0.gamma_1"]
    state["head_dist.weight"] = torch.zeros(1)
    state["head.bias"] = torch.full((1000,), float("nan"))
    with pytest.raises(StmdeployError) as error:
        load_strictly(model, state, "x.pth")
    assert "1 missing: stages.0.0.gamma_1" in error.value.message
    assert "1 unexpected: head_dist.weight" in error.value.message
    assert "1 misshapen: head.weight (10x384, not 1000x384)" in error.value.message
    assert "1 not finite: head.bias" in error.value.message


def test_another_models_checkpoint_is_refused_in_one_short_line(checkpoint: Path) -> None:
    with pytest.raises(StmdeployError, match=r"missing: .* and \d+ more; .*unexpected") as error:
        load_strictly(create_backbone("halo", "micro"), read_state_dict(checkpoint), "x.pth")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_truncated_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    for length in (0, 10, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(StmdeployError, match=r"cut\.pth (cannot be read|is damaged)"):
            read_state_dict(tmp_path / "cut.pth")


def test_a_truncated_file_of_the_older_format_is_refused(tmp_path: Path) -> None:
    state = create_backbone("convnext", "micro").state_dict()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pth").read_bytes()
    for length in (*range(1, 400, 13), len(whole) // 3, len(whole) - 1):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(StmdeployError, match=r"cut\.pth (cannot be read|is damaged)"):
            read_state_dict(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1000, dtype=torch.complex64),
        torch.zeros(1000, dtype=torch.int32),
        torch.zeros(1000, dtype=torch.bool),
        torch.zeros(1000).to_sparse(),
        torch.zeros(1000).to(torch.float8_e4m3fn),
        torch.zeros(1000, device="meta"),
    ],
)
def test_values_of_another_type_are_refused(value: torch.Tensor) -> None:
    model = create_backbone("convnext", "micro")
    with pytest.raises(StmdeployError, match=r"1 of another type: head\.bias"):
        load_strictly(model, {**model.state_dict(), "head.bias": value}, "x.pth")


def test_values_too_large_for_float32_are_refused() -> None:
    model = create_backbone("convnext", "micro")
    large = torch.full((1000,), 1e300, dtype=torch.float64)
    with pytest.raises(StmdeployError, match=r"1 not finite: head\.bias"):
        load_strictly(model, {**model.state_dict(), "head.bias": large}, "x.pth")


def test_half_precision_checkpoints_load() -> None:
    model = create_backbone("convnext", "micro")
    halved = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    load_strictly(model, halved, "x.pth")
    assert model.head.weight.dtype == torch.float32


@pytest.mark.parametrize("url", ["http://[::1", "http://exa mple/x.pth", "http://"])
def test_addresses_that_are_none(url: str, progress: RecordedProgress) -> None:
    with pytest.raises(StmdeployError):
        load_checkpoint(create_backbone("convnext", "micro"), url, progress)


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    torch.save({"model": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pth")
    with pytest.raises(StmdeployError, match="nothing in it was run"):
        read_state_dict(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {}}, {"epoch": 3}])
def test_other_content_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(StmdeployError, match="holds no state_dict"):
        read_state_dict(tmp_path / "x.pth")


def test_a_url_is_downloaded_once(
    checkpoint: Path, served: dict[str, object], progress: RecordedProgress
) -> None:
    served["/a/convnext.pth"] = checkpoint.read_bytes()
    spec = ModelSpec("unified_convnext_micro", checkpoint=f"{served['url']}/a/convnext.pth")
    first = build_model(spec, progress)
    served["/a/convnext.pth"] = 404
    again = build_model(spec, progress)
    assert first.info == again.info
    assert first.info.weights.kind == "checkpoint"
    assert first.info.weights.source == "convnext.pth"
    assert progress.steps.count("downloading convnext.pth") == 1


@pytest.mark.parametrize("page", [404, 500, "cut"])
def test_a_failed_download_leaves_no_cache(
    checkpoint: Path, served: dict[str, object], page: object, progress: RecordedProgress
) -> None:
    served["/c.pth"] = (checkpoint.read_bytes(), 1000) if page == "cut" else page
    with pytest.raises(StmdeployError):
        load_checkpoint(create_backbone("convnext", "micro"), f"{served['url']}/c.pth", progress)
    assert not list(cache_folder().rglob("*"))


def test_a_server_that_is_not_there(progress: RecordedProgress) -> None:
    with pytest.raises(StmdeployError, match="check the connection"):
        load_checkpoint(create_backbone("convnext", "micro"), "http://127.0.0.1:9/x.pth", progress)


def test_no_official_checkpoint(progress: RecordedProgress) -> None:
    with pytest.raises(StmdeployError, match="no official checkpoint is published"):
        build_model(ModelSpec("unified_dcn_v3_large", checkpoint="official"), progress)


def test_position_embeddings_follow_the_image_size() -> None:
    small, large = create_backbone("pvt", "micro"), create_backbone("pvt", "micro", image_size=448)
    fill_synthetic(small)
    load_strictly(large, small.state_dict(), "x.pth")
    embedding = small.state_dict()["stages.1.0.pos_embed"]
    resized = large.state_dict()["stages.1.0.pos_embed"]
    assert resized.shape == (1, 64, 56, 56)
    # Aligned corners: the corners keep their values.
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(
            resized[..., corner[0], corner[1]], embedding[..., corner[0], corner[1]]
        )


def test_bias_tables_are_resampled_over_their_grid() -> None:
    ramp = torch.arange(13.0)[:, None].expand(13, 13).reshape(169, 1).repeat(1, 4)
    larger = resample("attn.relative_position_bias_table", ramp, torch.Size((23 * 23, 4)))
    grid = larger[:, 2].reshape(23, 23)
    assert torch.allclose(grid, grid[:, :1].expand(23, 23), atol=1e-5)
    assert (grid[1:, 0] > grid[:-1, 0]).all()
    torch.testing.assert_close(grid[11, 11], torch.tensor(6.0))


def test_halo_tables_are_resampled_linearly() -> None:
    table = torch.arange(25.0)[:, None].repeat(1, 8)
    larger = resample("pos_embed.width_rel", table, torch.Size((49, 8)))
    torch.testing.assert_close(larger[:, 0], torch.arange(49.0) / 2)


def test_other_keys_are_never_resampled() -> None:
    value = torch.zeros(10, 384)
    assert resample("head.weight", value, torch.Size((1000, 384))) is value


def of_detector(tmp_path: Path, stm: str = "swin", scale: str = "micro") -> Path:
    """A checkpoint as mmdetection writes it: a backbone, a neck, heads, and what else it noted."""
    config = resolve(stm, scale)
    backbone, neck = create_backbone(stm, scale, task="detection"), FeaturePyramid(config.dims)
    fill_synthetic(backbone, seed=5)
    fill_synthetic(neck, seed=5)
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    state |= {f"neck.{key}": value for key, value in neck.state_dict().items()}
    state |= {
        "rpn_head.rpn_conv.weight": torch.randn(8, 8, 3, 3),
        "rpn_head.rpn_conv.bias": torch.randn(8),
        "roi_head.bbox_head.fc_cls.weight": torch.randn(81, 8),
    }
    path = tmp_path / f"mask_rcnn_unified_{stm}_{scale}_1x.pth"
    meta = {"epoch": 12, "mmdet_version": "2.26.0", "CLASSES": ("person", "bicycle")}
    torch.save({"meta": meta, "state_dict": state, "optimizer": {"param_groups": []}}, path)
    return path


def detection(path: Path | str, stm: str = "unified_swin_micro", **more: str) -> ModelSpec:
    return ModelSpec(stm, (64, 96), checkpoint=str(path), task="detection", **more)  # type: ignore[arg-type]


def test_a_detectors_checkpoint_gives_its_backbone(
    tmp_path: Path, progress: RecordedProgress
) -> None:
    path = of_detector(tmp_path)
    given = torch.load(path, weights_only=True)["state_dict"]
    built = build_model(detection(path), progress)
    for key, value in built.module.state_dict().items():
        assert torch.equal(value, given[f"backbone.{key}"])
    assert progress.warnings == [
        f"{path.name}: left out, with the number of tensors: neck (16), rpn_head (2), roi_head (1)"
    ]
    assert built.info.weights.kind == "checkpoint"


def test_a_detectors_checkpoint_gives_its_neck_too(
    tmp_path: Path, progress: RecordedProgress
) -> None:
    path = of_detector(tmp_path)
    given = torch.load(path, weights_only=True)["state_dict"]
    built = build_model(detection(path, neck="fpn"), progress)
    for key, value in built.module.state_dict().items():
        assert torch.equal(value, given[key])
    assert progress.warnings == [
        f"{path.name}: left out, with the number of tensors: rpn_head (2), roi_head (1)"
    ]


@pytest.mark.parametrize("neck", ["", "fpn"])
def test_a_classification_checkpoint_lacks_the_last_norms(
    checkpoint: Path, progress: RecordedProgress, neck: str
) -> None:
    built = build_model(detection(checkpoint, "unified_convnext_micro", neck=neck), progress)
    given, prefix = torch.load(checkpoint, weights_only=True)["model"], "backbone." * bool(neck)
    loaded = {k.removeprefix(prefix): v for k, v in built.module.state_dict().items()}
    for key, value in loaded.items():
        if key.startswith("out_norm_"):
            assert torch.equal(value, torch.full_like(value, float(key.endswith("weight"))))
        elif not key.startswith("neck."):
            assert torch.equal(value, given[key])
    left_out, fresh = progress.warnings
    assert left_out.endswith("tensors: stage_norms (8), conv_head (6), head (2)")
    norms = ", ".join(f"out_norm_{i}" for i in range(4))
    assert fresh.endswith(f"not in it, so not trained: {norms}{', neck' if neck else ''}")


def test_a_detection_backbone_of_its_own_loads_too(
    tmp_path: Path, progress: RecordedProgress
) -> None:
    state = create_backbone("swin", "micro", task="detection").state_dict()
    torch.save(state, tmp_path / "x.pth")
    built = build_model(detection(tmp_path / "x.pth"), progress)
    assert all(torch.equal(value, state[key]) for key, value in built.module.state_dict().items())
    assert progress.warnings == []


def test_a_checkpoint_of_the_wrong_kind(
    tmp_path: Path, checkpoint: Path, progress: RecordedProgress
) -> None:
    path = of_detector(tmp_path)
    with pytest.raises(StmdeployError, match="it is of a detector: give --task detection"):
        build_model(ModelSpec("unified_swin_micro", checkpoint=str(path)), progress)
    for spec in (detection(path, "unified_halo_micro"), detection(checkpoint),
                 detection(path, "unified_swin_tiny")):  # fmt: skip
        with pytest.raises(StmdeployError, match=r"does not fit the model.*check --stm, --scale"):
            build_model(spec, progress)
    mixed = torch.load(path, weights_only=True)["state_dict"]
    mixed["backbone.stages.0.0.mlp.fc1.bias"] = torch.full((128,), float("nan"))
    del mixed["backbone.stages.1.0.norm1.weight"]
    torch.save({"state_dict": mixed}, path)
    with pytest.raises(StmdeployError) as error:
        build_model(detection(path), progress)
    assert "1 missing: stages.1.0.norm1.weight" in error.value.message
    assert "1 not finite: stages.0.0.mlp.fc1.bias" in error.value.message
    assert "\n" not in error.value.message


def test_the_authors_detector_is_downloaded(
    tmp_path: Path,
    served: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    progress: RecordedProgress,
) -> None:
    """`--checkpoint official`, from a server of the test's."""
    path = of_detector(tmp_path, "dcn")
    served["/det-ckpt/mask_rcnn_unified_internimage_micro_1x.pth"] = path.read_bytes()
    monkeypatch.setattr(catalogue, "DETECTOR_BASE_URL", f"{served['url']}/det-ckpt/")
    catalogue._by_name.cache_clear()
    try:
        built = build_model(detection("official", "unified_dcn_v3_micro"), progress)
    finally:
        monkeypatch.undo()
        catalogue._by_name.cache_clear()
    assert built.official
    assert built.info.weights.source == "mask_rcnn_unified_internimage_micro_1x.pth"
    assert "downloading mask_rcnn_unified_internimage_micro_1x.pth" in progress.steps


def test_where_the_authors_detectors_are() -> None:
    urls = {name: resolve(name).detector_url for name in list_backbones()}
    there = [url for url in urls.values() if url]
    assert len(there) == len(set(there)) == 20
    url = urls["unified_halo_tiny"]
    assert url and url.endswith("/det-ckpt/mask_rcnn_unified_halonet_tiny_1x.pth")
    assert urls["unified_dcn_v3_large"] is None


def test_a_detectors_checkpoint_of_which_a_norm_is_missing(
    tmp_path: Path, progress: RecordedProgress
) -> None:
    path = of_detector(tmp_path)
    state = torch.load(path, weights_only=True)["state_dict"]
    del state["backbone.out_norm_2.weight"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(StmdeployError, match=r"1 missing: out_norm_2\.weight"):
        build_model(detection(path), progress)
    del state["neck.fpn_convs.1.conv.bias"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(StmdeployError, match="2 missing: "):
        build_model(detection(path, neck="fpn"), progress)


def test_many_strange_parts_are_named_in_one_line(
    tmp_path: Path, progress: RecordedProgress
) -> None:
    path = of_detector(tmp_path)
    state = torch.load(path, weights_only=True)["state_dict"]
    state |= {f"part\n\x1b[2J{i}.weight": torch.zeros(1) for i in range(1000)}
    torch.save({"state_dict": state}, path)
    build_model(detection(path), progress)
    (told,) = progress.warnings
    assert told.endswith("and 995 more") and told.isprintable()
