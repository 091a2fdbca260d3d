"""How long work reports what it is doing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Reports on long work, to a terminal or a log."""

    def phase(self, name: str, steps: int) -> None:
        """Begins a phase of about so many steps; what is expected within it is among them."""

    def expect(self, steps: int) -> None:
        """Announces that many more steps."""

    def step(self, text: str) -> None:
        """Begins a step, named by the text; the step before is done."""

    def detail(self, text: str) -> None:
        """Shows what the present step is doing, until the next call."""

    def warn(self, text: str) -> None:
        """Shows a warning that stays on the screen."""


class Silent:
    """A `Progress` that reports nothing."""

    def phase(self, name: str, steps: int) -> None:
        """Does nothing."""

    def expect(self, steps: int) -> None:
        """Does nothing."""

    def step(self, text: str) -> None:
        """Does nothing."""

    detail = warn = step
