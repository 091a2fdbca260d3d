"""Keeps what libraries say in passing off the user's screen."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(logger: str = "") -> Iterator[None]:
    """Without Python's warnings, and of a logger (the root's for an empty name) errors alone."""
    named = logging.getLogger(logger or None)
    level = named.level
    named.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        named.setLevel(level)
