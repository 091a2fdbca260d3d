"""Checkpoints: downloaded, read without running code, resampled, loaded strictly."""

from __future__ import annotations

import hashlib
import math
import pickle
import urllib.error
import zipfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmdeploy.backbones.detector import is_of_detector, of_detection
from stmdeploy.backbones.neck import BackboneWithNeck
from stmdeploy.backbones.network import DetectionBackbone
from stmdeploy.errors import StmdeployError
from stmdeploy.files import places
from stmdeploy.files.writing import publish, sha256_of, staging
from stmdeploy.plugins.progress import Progress

#: Suffixes of buffers in older checkpoints that are computed from the geometry here.
DERIVED_SUFFIXES = ("relative_position_index", "attn_mask")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: How many keys an error message names before it counts the rest.
_NAMED_KEYS = 3


def cache_folder() -> Path:
    """Where downloaded checkpoints are kept: ``$XDG_CACHE_HOME/stmdeploy/checkpoints``."""
    return places.cache_folder() / "checkpoints"


def locate_checkpoint(source: str, progress: Progress) -> Path:
    """The local file of a checkpoint given as a path or an http(s) URL.

    A URL is downloaded once, with a progress bar, into `cache_folder`, and kept only if it can be
    read.

    Raises:
        StmdeployError: there is no such file, the download failed, or it is not a checkpoint.
    """
    if not source.startswith(("http://", "https://")):
        path = Path(source)
        if not path.is_file():
            raise StmdeployError(f"no checkpoint file at {source}", "give a path or a URL")
        return path
    name = source_name(source)
    target = cache_folder() / f"{hashlib.sha256(source.encode()).hexdigest()[:12]}-{name}"
    if target.is_file():
        return target
    progress.expect(1)
    progress.step(f"downloading {name}")
    with staging(target.parent) as scratch:
        _download(source, scratch / target.name)
        read_state_dict(scratch / target.name)
        publish(scratch, [target.name], target.parent)
    return target


def source_name(source: str) -> str:
    """The file name in a path or URL, for a manifest; raises StmdeployError for a malformed URL."""
    try:
        return Path(urlsplit(source).path).name or "checkpoint"
    except ValueError as error:
        raise StmdeployError(f"{source} is not a URL: {error}", "check the address") from error


def _download(url: str, path: Path) -> None:
    try:
        torch.hub.download_url_to_file(url, str(path), progress=True)
    except urllib.error.HTTPError as error:
        raise StmdeployError(
            f"{url}: the server answers {error.code} {error.reason}", "check the address"
        ) from error
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        raise StmdeployError(
            f"{url}: {getattr(error, 'reason', error)}", "check the connection, or give a file"
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state_dict in a checkpoint file: bare, or under the key ``model`` or ``state_dict``.

    Only tensors and plain containers are unpickled (``weights_only``), so a checkpoint
    cannot run code.

    Raises:
        StmdeployError: the file is not a checkpoint, is cut short, or holds code or no state_dict.
    """
    hint = "give a file saved by torch.save that holds a state_dict"
    try:
        if (whole := _unpacked_bytes(path)) > path.stat().st_size:
            raise StmdeployError(f"{path} would unpack to {whole} bytes, more than it holds", hint)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except StmdeployError:
        raise
    except pickle.UnpicklingError as error:
        raise StmdeployError(
            f"{path} is damaged or holds more than tensors; nothing in it was run", hint
        ) from error
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise StmdeployError(f"{path} cannot be read: cut short or no checkpoint", hint) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise StmdeployError(f"{path} holds no state_dict", hint)
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise StmdeployError(f"{path} holds no state_dict: not all of its values are tensors", hint)
    return {k: v for k, v in content.items() if not k.endswith(DERIVED_SUFFIXES)}


def _unpacked_bytes(path: Path) -> int:
    """The total size that the members of an archive claim; 0 if it is none. torch.save compresses
    nothing, so an archive smaller than its members is a decompression bomb."""
    if not zipfile.is_zipfile(path):
        return 0
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def resample(key: str, value: Tensor, shape: torch.Size) -> Tensor:
    """Fits a value that depends on the image size to another size, as the authors' loader does.

    Swin's bias tables are resampled bicubically over their square grid; with aligned corners,
    halo's tables linearly and pvt's position embeddings bilinearly. Anything else is returned as
    it is.
    """
    if value.shape == shape or value.dim() != len(shape) or not value.is_floating_point():
        return value
    if key.endswith("relative_position_bias_table") and value.shape[1] == shape[1]:
        old, new = math.isqrt(value.shape[0]), math.isqrt(shape[0])
        if old * old != value.shape[0]:
            return value
        grid = value.t().reshape(1, -1, old, old)
        grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
        return grid.reshape(-1, new * new).t()
    if key.endswith(("width_rel", "height_rel")) and value.shape[1] == shape[1]:
        line = F.interpolate(value.t()[None], size=shape[0], mode="linear", align_corners=True)
        return line[0].t()
    if key.endswith("pos_embed") and value.shape[:2] == shape[:2]:
        return F.interpolate(value, size=shape[2:], mode="bilinear", align_corners=True)
    return value


def _same_kind(value: Tensor, wanted: Tensor) -> bool:
    """Whether a stored tensor is dense, and a float if the module's is, else of the same dtype."""
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.is_meta:
        return False
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return False  # one number that claims to be many
    if wanted.is_floating_point():
        return value.dtype in _FLOATS
    return value.dtype == wanted.dtype


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_KEYS} more" if len(names) > _NAMED_KEYS else ""
    return ", ".join(names[:_NAMED_KEYS]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a state_dict into a module; every key of either must fit.

    Raises:
        StmdeployError: names missing, unexpected and misshapen keys, and those whose values are of
            another type or not finite.
    """
    wanted = module.state_dict()
    unfit = [k for k, v in state.items() if k in wanted and not _same_kind(v, wanted[k])]
    fitted = {
        k: resample(k, v, wanted[k].shape).to(wanted[k].dtype)
        for k, v in state.items()
        if k in wanted and k not in unfit
    }
    problems = {
        "missing": [k for k in wanted if k not in state],
        "unexpected": [k for k in state if k not in wanted],
        "misshapen": [
            f"{k} ({_shape(v)}, not {_shape(wanted[k])})"
            for k, v in fitted.items()
            if v.shape != wanted[k].shape
        ],
        "of another type": [f"{k} ({state[k].dtype})" for k in unfit],
        "not finite": [k for k, v in fitted.items() if not torch.isfinite(v).all()],
    }
    found = [f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise StmdeployError(
            f"checkpoint {source} does not fit the model: {'; '.join(found)}",
            _kind_hint(state, wanted),
        )
    module.load_state_dict(fitted, strict=True)


def load_checkpoint(module: nn.Module, source: str, progress: Progress) -> str:
    """Loads a checkpoint (path or URL) into `module`.

    A detection backbone takes a detector's checkpoint, or a classification checkpoint, which lacks
    its last norms; what is left out and what stays as it is made is said.

    Returns:
        The SHA-256 of the file.

    Raises:
        StmdeployError: as `locate_checkpoint`, `read_state_dict` and `load_strictly`.
    """
    path = locate_checkpoint(source, progress)
    progress.expect(1)
    progress.step(f"loading {path.name}")
    state = read_state_dict(path)
    if isinstance(module, DetectionBackbone | BackboneWithNeck):
        state, notes = of_detection(state, module.state_dict())
        for note in notes:
            progress.warn(f"{source_name(source)}: {note}")
    load_strictly(module, state, source)
    return sha256_of(path)


def _kind_hint(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What to do about a checkpoint that does not fit: its kind may be another one."""
    if is_of_detector(state) and "head.weight" in wanted:
        return "it is of a detector: give --task detection, or a classification checkpoint"
    return "check --stm, --scale and --num-classes"


def content_hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of a module's state_dict."""
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key}|{tensor.dtype}|{_shape(tensor)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
