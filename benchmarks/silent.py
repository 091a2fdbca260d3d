"""A progress that says nothing."""

from __future__ import annotations


class Silent:
    """`stmdeploy.contracts.Progress` for benchmarks."""

    def expect(self, steps: int) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def detail(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""
