"""The flags that several commands share. Several values: repeat a flag or use commas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Stm = Annotated[
    list[str] | None,
    typer.Option(
        "--stm",
        help="Spatial token mixer: halo, pvt, pvt_v2, swin, convnext, dcn, an alias, "
        "or an official name such as unified_dcn_v3_tiny.",
    ),
]
Scale = Annotated[
    list[str] | None,
    typer.Option(
        "--scale",
        help="micro, tiny, small, base; dcn also large. "
        "[default: tiny; of a profile without --stm: micro]",
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="A model of your own: package.module:callable, or timm:NAME where timm is installed.",
    ),
]
ImageSize = Annotated[
    list[str] | None,
    typer.Option("--image-size", help="Pixels: 224 or HEIGHTxWIDTH. [default: 224]"),
]
NumClasses = Annotated[
    int | None,
    typer.Option(
        "--num-classes",
        help="Outputs of the head. A --model whose callable takes num_classes gets it, and must "
        "have as many. [default: 1000; of a --model what it has]",
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="A file, a URL, or 'official' for the authors' weights. "
        "Without it weights are synthetic: right for latency, meaningless for accuracy.",
    ),
]
Lowering = Annotated[
    str | None,
    typer.Option(
        "--lowering",
        help="reference, tokens (the same function, lowered to ONNX's own Attention, DeformConv "
        "and RMSNormalization), or tokens-plain (without those). "
        "[default: what suits the target]",
    ),
]
Precision = Annotated[
    list[str] | None,
    typer.Option("--precision", help="fp32, fp16, bf16, int8, int8-dynamic. [default: fp32]"),
]
CalibrationFolder = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        help="Folder of photographs: half set the scales of int8, half judge the precision. "
        "[default: random images]",
    ),
]
CalibrationImages = Annotated[
    int,
    typer.Option("--calibration-images", help="How many set the scales, and how many judge."),
]
WorkspaceMib = Annotated[
    int | None,
    typer.Option("--workspace-mib", help="Of TensorRT: scratch memory. [default: all]"),
]
BuilderLevel = Annotated[
    int | None,
    typer.Option(
        "--builder-optimization-level", help="Of TensorRT: 0 (fast build) to 5 (fast engine)."
    ),
]
TimingCache = Annotated[
    Path | None,
    typer.Option("--timing-cache-file", help="Of TensorRT: keeps measurements between builds."),
]
ComputeCapability = Annotated[
    list[str] | None,
    typer.Option(
        "--compute-capability",
        help="Of TensorRT-RTX: GPUs to build for, as 8.9,12.0. [default: this GPU, else 8.9]",
    ),
]
TimeoutS = Annotated[
    float, typer.Option("--timeout-s", help="A worker that lives longer is ended.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Also do what files name: run their programs and Python code, fetch from their "
        "addresses, use their paths. See SECURITY.md.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="STMDEPLOY_STORE",
        help="Keep rows on a PostgreSQL server, postgresql+psycopg://HOST/DATABASE, and only what "
        "lies beside them in --out. [default: results.db in --out]",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for what is written.")]


def words(values: list[str] | None) -> list[str]:
    """``["halo,dcn", "swin"]`` -> ``["halo", "dcn", "swin"]``, repeats dropped."""
    return list(dict.fromkeys(_parts(values)))


def _parts(values: list[str] | None) -> list[str]:
    parts = [part.strip() for value in values or [] for part in value.split(",")]
    return [part for part in parts if part]


def numbers(values: list[str] | None, flag: str, *, repeats: bool = False) -> list[int]:
    """As `words`, for whole numbers; `repeats` are kept where they mean something.

    Raises:
        StmdeployError: something else than a whole number.
    """
    from stmdeploy.errors import StmdeployError

    try:
        return [int(word) for word in (_parts(values) if repeats else words(values))]
    except ValueError:
        raise StmdeployError(
            f"{flag} {','.join(values or [])} is not understood", "write whole numbers, as 1,8"
        ) from None
