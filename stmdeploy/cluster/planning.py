"""Plans which nodes of a cluster run which rows, before anything is exported or measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stmdeploy.cluster.facts import LOADGEN
from stmdeploy.cluster.fleet import Fleet
from stmdeploy.cluster.kinds import (
    Chosen,
    Kind,
    check_runtimes,
    differences,
    expected,
    kind_of,
    nodes_for,
)
from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.schema.hardware import Environment
from stmdeploy.spec.run import LOOP, RunSpec
from stmdeploy.spec.sweep import SweepSpec


@dataclass(frozen=True)
class ClusterSpec:
    """The cluster to measure on.

    Attributes:
        address: address, as `RayFleet` takes it.
        allow_version_differences: whether the versions of the runtimes may differ among this
            machine and the nodes; every row records its own anyway.
        patience_s: how long to wait for a node of a kind that has lost all its nodes.
    """

    address: str
    allow_version_differences: bool = False
    patience_s: float = 300.0


@dataclass(frozen=True)
class Plan:
    """Which nodes run which kind.

    Attributes:
        chosen: the nodes of each kind.
        asked: ids of the nodes that were asked what they are.
        differences: packages whose versions differ, in words.
        versions: versions that every node must have, also one that joins later; only stmdeploy's
            if others may differ.
    """

    chosen: Mapping[Kind, Chosen]
    asked: frozenset[str]
    differences: tuple[str, ...]
    versions: Mapping[str, str]


def check_cluster_sweep(spec: SweepSpec) -> None:
    """Raises StmdeployError for what another machine cannot measure."""
    for run in spec.runs:
        if exporter_of(run.runtime).target.travels == "nothing":
            raise StmdeployError(
                f"runtime {run.runtime} only runs on the machine that compiled it",
                "leave it out, or measure it there without --cluster",
            )
        if run.python:
            raise StmdeployError(
                "--python is a path on this machine", "leave it out with --cluster"
            )
        kind_of(run)
    if spec.engine.timing_cache is not None:
        raise StmdeployError(
            "--timing-cache-file is a path on this machine",
            "leave it out with --cluster: nodes keep their own",
        )


def plan(
    fleet: Fleet[Any, Any], runs: Iterable[RunSpec], here: Environment, spec: ClusterSpec
) -> Plan:
    """Asks the nodes of a cluster what they can run.

    Args:
        here: this machine, whose versions the nodes' are compared with.

    Raises:
        StmdeployError: a kind without nodes, a runtime that is missing on one, or versions that
            differ although they may not.
    """
    wanted = list(runs)
    nodes = fleet.nodes()
    kinds = tuple(dict.fromkeys(kind_of(run) for run in wanted))
    of_type = {kind.accelerator_type for kind in kinds}
    asked = [node for node in nodes if node.accelerator_types & of_type]
    facts = fleet.survey(asked) if asked else {}
    chosen = {kind: nodes_for(kind, nodes, facts) for kind in kinds}
    runtimes = tuple(dict.fromkeys(run.runtime for run in wanted))
    if any(run.scenario.name != LOOP for run in wanted):
        runtimes = (*runtimes, LOADGEN)
    mine = {node: said for kind in chosen.values() for node, said in kind.nodes.items()}
    check_runtimes(mine, runtimes)
    _check_alone(chosen)
    found = differences(mine, runtimes, here)
    if found and not spec.allow_version_differences:
        raise StmdeployError(
            f"versions differ: {'; '.join(found)}",
            "install the same everywhere, or give --allow-version-differences",
        )
    return Plan(chosen, frozenset(facts), found, expected(mine, () if found else runtimes))


def _check_alone(chosen: Mapping[Kind, Chosen]) -> None:
    """Raises StmdeployError for a node of two accelerator types, which would run two rows."""
    types: dict[str, Kind] = {}
    for kind, found in chosen.items():
        for node in found.nodes:
            other = types.setdefault(node.id, kind)
            if other.accelerator_type != kind.accelerator_type:
                raise StmdeployError(
                    f"node {node.label} fits {other.flag} and {kind.flag}, and would measure both "
                    "at once",
                    "measure one kind after the other",
                )
