"""Keeps the chatter of libraries off the user's screen."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(logger: str = "") -> Iterator[None]:
    """Silences Python's warnings, and all but errors of a logger (the root's without a name)."""
    named = logging.getLogger(logger or None)
    level = named.level
    named.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        named.setLevel(level)
