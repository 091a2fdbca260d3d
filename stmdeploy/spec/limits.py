"""Checks of single figures, as every spec makes them."""

from __future__ import annotations

import math

from stmdeploy.errors import StmdeployError


def at_least(lowest: int, value: int, what: str) -> None:
    """Raises StmdeployError if a whole number is too small."""
    if value < lowest:
        raise StmdeployError(f"{what} is {value}", f"give at least {lowest}")


def at_most(highest: int, value: int, what: str) -> None:
    """Raises StmdeployError if a whole number is too large."""
    if value > highest:
        raise StmdeployError(f"{what} is {value}", f"give at most {highest}")


def positive(value: float, what: str) -> None:
    """Raises StmdeployError unless a figure is finite and above zero."""
    if not (math.isfinite(value) and value > 0):
        raise StmdeployError(f"{what} is {value}", "give a number above 0")
