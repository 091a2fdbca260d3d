"""Where long work says what it is doing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Where long work says what it is doing."""

    def expect(self, steps: int) -> None:
        """So many more steps will follow."""

    def step(self, text: str) -> None:
        """A new piece of work begins; the one before it is done."""

    def detail(self, text: str) -> None:
        """What the present piece of work is doing now; seen only while it does."""

    def warn(self, text: str) -> None:
        """A line that the user should see, and that stays."""


class Silent:
    """A `Progress` that says nothing."""

    def expect(self, steps: int) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    detail = warn = step
