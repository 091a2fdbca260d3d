"""Checks of single numbers, shared by all specifications."""

from __future__ import annotations

import math

from stmdeploy.errors import StmdeployError


def at_least(lowest: int, value: int, what: str) -> None:
    """Raises StmdeployError, which calls the value `what`, if it is below the lowest."""
    if value < lowest:
        raise StmdeployError(f"{what} is {value}", f"give at least {lowest}")


def at_most(highest: int, value: int, what: str) -> None:
    """Raises StmdeployError, which calls the value `what`, if it is above the highest."""
    if value > highest:
        raise StmdeployError(f"{what} is {value}", f"give at most {highest}")


def positive(value: float, what: str) -> None:
    """Raises StmdeployError, which calls the value `what`, unless it is finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise StmdeployError(f"{what} is {value}", "give a number above 0")
