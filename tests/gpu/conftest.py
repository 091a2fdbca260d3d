"""Tests marked ``gpu`` are skipped with the reason where there is none; and a summary to paste."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from stmdeploy import __version__
from stmdeploy.hardware.environment import environment
from stmdeploy.hardware.gpus import installed_gpus, why_no_gpus
from stmdeploy.hardware.nvml import driver_version
from stmdeploy.hardware.profiles import profile_of

_FIGURE = "figure"


@cache
def why_skipped() -> str:
    """Why no test can use a GPU here; empty if they can."""
    if not installed_gpus():
        return f"no NVIDIA GPU here{why_no_gpus()}"
    import torch

    return "" if torch.cuda.is_available() else "this torch has no CUDA"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := why_skipped():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def shared_exports() -> None:
    """Each export is run, in its worker: an engine is built where it will run."""


@pytest.fixture
def tell(record_property: object) -> object:
    """Adds a line to the summary."""

    def add(text: str) -> None:
        record_property(_FIGURE, text)  # type: ignore[operator]

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """What someone with a GPU pastes into an issue."""
    if config.getoption("markexpr") != "gpu":
        return
    write = terminalreporter.write_line
    terminalreporter.section("paste from here")
    write(f"stmdeploy {__version__}, driver {driver_version() or 'none'}")
    for gpu in installed_gpus():
        profile = profile_of(gpu.name)
        write(f"{gpu.name}, {gpu.mode}, profile {profile.name if profile else 'none'}")
    machine = environment()
    write(f"{machine.processor}, {machine.os}, Python {machine.python}")
    write(", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items())))
    for outcome, mark in (("passed", "+"), ("failed", "-"), ("error", "-")):
        for report in terminalreporter.stats.get(outcome, []):
            write(f"{mark} {_name(report)}: {outcome}{_why(report)}")
            for name, text in getattr(report, "user_properties", []):
                if name == _FIGURE:
                    write(f"    {text}")
    skipped = terminalreporter.stats.get("skipped", [])
    alike = Counter((_name(report).partition("[")[0], _why(report)) for report in skipped)
    for (name, why), count in alike.items():
        write(f"  {name}: {count} skipped{why}")
    write("to here")


def _name(report: pytest.TestReport) -> str:
    return report.nodeid.rpartition("::")[2]


def _why(report: object) -> str:
    reason = getattr(report, "longrepr", None)
    if isinstance(reason, tuple):  # of a skipped test: file, line, reason
        return f" ({str(reason[2]).removeprefix('Skipped: ')})"
    crash = getattr(reason, "reprcrash", None)
    return f" ({str(crash.message).splitlines()[0][:200]})" if crash else ""
