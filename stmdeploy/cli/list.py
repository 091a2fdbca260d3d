"""`list`: backbones, targets and promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stmdeploy.cli import console
from stmdeploy.cli.command import argument
from stmdeploy.cli.options import JsonOption, TaskOption


@dataclass(frozen=True, kw_only=True)
class ListOptions(JsonOption, TaskOption):
    """What is listed."""

    what: Literal["backbones", "targets", "promises"] = argument("What to list.", "backbones")


def list_(options: ListOptions) -> None:
    """List backbones with their published accuracy, export targets, or promises.

    Promises say for which mixer, target, precision and lowering an export works, and if not, why.
    """
    from stmdeploy.cli import listings
    from stmdeploy.cli.requests import check_task
    from stmdeploy.spec.model import CLASSIFICATION

    task = check_task(options.task) or CLASSIFICATION
    entries, table = listings.LISTINGS[options.what](task)
    console.show({options.what: entries}, table, json=options.json)
