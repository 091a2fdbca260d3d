"""`list`: backbones, targets, GPUs and promises."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stmdeploy.cli import console
from stmdeploy.cli.command import argument
from stmdeploy.cli.options import JsonOption


class Listing(StrEnum):
    """What `list` can list."""

    BACKBONES = "backbones"
    TARGETS = "targets"
    GPUS = "gpus"
    PROMISES = "promises"


@dataclass(frozen=True, kw_only=True)
class ListOptions(JsonOption):
    """What is listed."""

    what: Listing = argument("What to list.", Listing.BACKBONES)


def list_(options: ListOptions) -> None:
    """List backbones with their published accuracy, export targets, known GPUs, or promises.

    Promises: for which mixer, target, precision and lowering an export works, and why not.
    """
    from stmdeploy.cli import listings

    entries, table = listings.LISTINGS[options.what.value]()
    console.show({options.what.value: entries}, table, json=options.json)
