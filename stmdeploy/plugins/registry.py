"""Finds exporters through the entry-point group ``stmdeploy.exporters``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from operator import attrgetter

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.plugins.exporter import Exporter

GROUP = "stmdeploy.exporters"


@cache
def exporters() -> dict[str, Exporter]:
    """Every installed exporter by target name, sorted. This imports no runtime."""
    points = sorted(entry_points(group=GROUP), key=attrgetter("name"))
    return {point.name: point.load()() for point in points}


def exporter_for_target(target: str, *, source_only: bool = False) -> Exporter:
    """The exporter of a target, such as ``onnx``.

    Args:
        source_only: the target's engine is built elsewhere, so its builder need not be here.

    Raises:
        StmdeployError: unknown target, or its library is not installed.
    """
    if target not in exporters():
        raise StmdeployError(f"unknown target {target!r}", nearest(target, exporters()))
    return _available(exporters()[target], source_only=source_only)


def exporter_for_runtime(runtime: str, *, source_only: bool = False) -> Exporter:
    """The exporter whose artifacts a runtime, such as ``onnxruntime``, runs.

    Args:
        source_only: the engine is built and run elsewhere, so its builder need not be here.

    Raises:
        StmdeployError: unknown runtime, or its library is not installed.
    """
    return _available(exporter_of(runtime), source_only=source_only)


def exporter_of(runtime: str) -> Exporter:
    """As `exporter_for_runtime`, whether or not its library is installed here.

    Raises:
        StmdeployError: unknown runtime.
    """
    by_runtime = {
        name: exporter for exporter in exporters().values() for name in exporter.target.runtimes
    }
    if runtime not in by_runtime:
        raise StmdeployError(f"unknown runtime {runtime!r}", nearest(runtime, by_runtime))
    return by_runtime[runtime]


def _available(exporter: Exporter, *, source_only: bool = False) -> Exporter:
    if reason := exporter.unavailable(source_only=source_only):
        raise StmdeployError(f"target {exporter.target.name!r} cannot be used here", reason)
    return exporter
