"""Writes artifacts as models of a Triton Inference Server repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import staging
from stmdeploy.schema.artifact import Artifact
from stmdeploy.schema.manifest import Manifest, TensorInfo

#: Triton's backend for each target, and the names that it wants the files to have, by suffix.
_BACKENDS = {
    "onnx": ("onnxruntime", {".onnx": "model.onnx"}),
    "openvino": ("openvino", {".xml": "model.xml", ".bin": "model.bin"}),
    "tensorrt": ("tensorrt", {".engine": "model.plan"}),
}
_DTYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16"}
_VERSION = "1"


def write_repository(artifact: Artifact, root: Path, max_batch: int) -> Path:
    """Writes ``root/NAME/config.pbtxt`` and ``root/NAME/1/``, replacing what is there.

    Args:
        artifact: of a target that Triton has a backend for; its files are copied.
        root: the model repository.
        max_batch: images that the server may put into one inference.

    Returns:
        The folder of the model.

    Raises:
        StmdeployError: Triton has no backend for the target.
    """
    manifest = artifact.manifest
    check_target(manifest.target)
    backend, names = _BACKENDS[manifest.target]
    name = f"{artifact.path.stem}-{manifest.target}"
    with staging(root) as scratch:
        model = scratch / name
        (model / _VERSION).mkdir(parents=True)
        for file in manifest.files:
            # The data of a large ONNX file keeps its name, by which the model refers to it.
            suffix = Path(file.name).suffix
            known = file.name if suffix == ".data" else names.get(suffix)
            if known:
                shutil.copyfile(artifact.path.with_name(file.name), model / _VERSION / known)
        config = _config(name, backend, max_batch, manifest)
        (model / "config.pbtxt").write_text(config, "utf-8")
        if (root / name).exists():
            (root / name).rename(scratch / f"{name}.old")
        model.rename(root / name)
    return root / name


def check_target(target: str) -> None:
    """Raises StmdeployError for a target that Triton has no backend for."""
    if target not in _BACKENDS:
        raise StmdeployError(
            f"Triton has no backend for target {target!r}", f"choose one of: {', '.join(_BACKENDS)}"
        )


def _config(name: str, backend: str, max_batch: int, manifest: Manifest) -> str:
    return (
        f'name: "{name}"\n'
        f'backend: "{backend}"\n'
        f"max_batch_size: {max_batch}\n"
        f"input [ {', '.join(map(_tensor, manifest.inputs))} ]\n"
        f"output [ {', '.join(map(_tensor, manifest.outputs))} ]\n"
        "dynamic_batching { }\n"
    )


def _tensor(tensor: TensorInfo) -> str:
    """A tensor without its batch dimension, which Triton adds by itself; -1 for a free one."""
    dims = ", ".join(str(dim) if isinstance(dim, int) else "-1" for dim in tensor.shape[1:])
    return f'{{ name: "{tensor.name}" data_type: {_DTYPES[tensor.dtype]} dims: [ {dims} ] }}'
