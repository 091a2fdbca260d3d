"""Which cluster, and who of it runs what: asked before anything is exported or measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.schema.hardware import Environment
from stmdeploy.spec.run import LOOP, RunSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.cluster.documents import NodeFacts
from stmdeploy.sweeps.cluster.fleet import Fleet
from stmdeploy.sweeps.cluster.kinds import (
    LOADGEN,
    Chosen,
    Kind,
    check_runtimes,
    choose,
    differences,
    expected,
    kind_of,
)

#: How long a kind may have no node before its rows are left for another time.
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class ClusterSpec:
    """The cluster to measure on.

    Attributes:
        address: as of `RayFleet`.
        allow_version_differences: whether nodes may have other versions of the runtimes than
            this machine and each other; every row records its own anyway.
        patience_s: how long a kind of which no node is left is waited for.
    """

    address: str
    allow_version_differences: bool = False
    patience_s: float = _PATIENCE_S


@dataclass(frozen=True)
class Plan:
    """Which nodes run which kind, and what they say of themselves by their ids.

    ``differences`` between versions are in words; ``versions`` are those that a node must have
    which joins later: of stmdeploy alone where the others may differ.
    """

    chosen: Mapping[Kind, Chosen]
    facts: Mapping[str, NodeFacts | str]
    differences: tuple[str, ...]
    versions: Mapping[str, str]


def check_cluster_sweep(spec: SweepSpec) -> None:
    """Raises StmdeployError for what cannot be measured on another machine."""
    for run in spec.runs:
        if exporter_of(run.runtime).target.travels == "nothing":
            raise StmdeployError(
                f"runtime {run.runtime} only runs on the machine that compiled it",
                "leave it out, or measure it there without --cluster",
            )
        if run.python:
            raise StmdeployError("--python is of one machine", "leave it out with --cluster")
        kind_of(run)
    if spec.engine.timing_cache is not None:
        raise StmdeployError(
            "--timing-cache-file is of one machine", "leave it out: nodes keep their engines"
        )


def plan(fleet: Fleet, runs: Iterable[RunSpec], here: Environment, spec: ClusterSpec) -> Plan:
    """Asks the cluster who can run what.

    Raises:
        StmdeployError: a kind that nobody has, a runtime that is missing, or versions that
            differ and may not.
    """
    wanted = list(runs)
    nodes = fleet.nodes()
    kinds = tuple(dict.fromkeys(kind_of(run) for run in wanted))
    of_type = {kind.accelerator_type for kind in kinds}
    asked = [node for node in nodes if node.accelerator_types & of_type]
    facts = fleet.survey(asked) if asked else {}
    chosen = choose(kinds, nodes, facts)
    runtimes = tuple(dict.fromkeys(run.runtime for run in wanted))
    if any(run.scenario.name != LOOP for run in wanted):
        runtimes = (*runtimes, LOADGEN)
    check_runtimes(chosen, runtimes, facts)
    _check_alone(chosen)
    found = differences(chosen, runtimes, facts, here)
    if found and not spec.allow_version_differences:
        raise StmdeployError(
            f"versions differ: {'; '.join(found)}",
            "install the same everywhere, or give --allow-version-differences",
        )
    return Plan(chosen, facts, found, expected(chosen, () if found else runtimes, facts))


def _check_alone(chosen: Mapping[Kind, Chosen]) -> None:
    """Raises StmdeployError for a node of two accelerator types, which would run a row of each."""
    types: dict[str, Kind] = {}
    for kind, found in chosen.items():
        for node in found.nodes:
            other = types.setdefault(node.id, kind)
            if other.accelerator_type != kind.accelerator_type:
                raise StmdeployError(
                    f"node {node.label} is of {other.flag} and of {kind.flag}: it would measure "
                    "both at once",
                    "measure one kind after the other",
                )
