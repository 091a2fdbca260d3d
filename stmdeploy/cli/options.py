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
NumClasses = Annotated[int, typer.Option("--num-classes", help="Outputs of the head.")]
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
        help="reference (plain), or tokens (the same function, faster on ONNX Runtime's CPU). "
        "[default: what suits the target]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for what is written.")]


def words(values: list[str] | None) -> list[str]:
    """``["halo,dcn", "swin"]`` -> ``["halo", "dcn", "swin"]``, repeats dropped."""
    parts = [part.strip() for value in values or [] for part in value.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def numbers(values: list[str] | None, flag: str) -> list[int]:
    """As `words`, for whole numbers.

    Raises:
        StmdeployError: something else than a whole number.
    """
    from stmdeploy.errors import StmdeployError

    try:
        return [int(word) for word in words(values)]
    except ValueError:
        raise StmdeployError(
            f"{flag} {','.join(values or [])} is not understood", "write whole numbers, as 1,8"
        ) from None
