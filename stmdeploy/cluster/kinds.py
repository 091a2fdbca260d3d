"""Which nodes of a cluster can run a row: by accelerator type, actual GPU, and versions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stmdeploy.cluster.facts import LOADGEN, NodeFacts
from stmdeploy.cluster.fleet import Node
from stmdeploy.errors import StmdeployError
from stmdeploy.hardware.profiles import find_profiles
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.schema.hardware import Environment
from stmdeploy.spec.run import RunSpec


@dataclass(frozen=True)
class Kind:
    """A kind of nodes, as a row names it.

    Attributes:
        name: name, as ``--gpu`` or ``--nodes`` takes it.
        gpu: whether the node's GPU measures; otherwise its CPU.
        accelerator_type: the cluster's name for such nodes.
    """

    name: str
    gpu: bool
    accelerator_type: str

    @property
    def flag(self) -> str:
        """The option that asks for this kind."""
        return f"--{'gpu' if self.gpu else 'nodes'} {self.name}"


@dataclass(frozen=True)
class Chosen:
    """The nodes that run a kind's rows.

    Attributes:
        nodes: the nodes, with what they say of themselves.
        avoided: why other nodes of the accelerator type cannot, by their ids.
        profile: hardware profile of their GPU; empty if the CPU measures.
    """

    nodes: Mapping[Node, NodeFacts]
    avoided: Mapping[str, str]
    profile: str = ""


def kind_of(run: RunSpec) -> Kind:
    """The kind of nodes that a run is for.

    Raises:
        StmdeployError: no such GPU is known, or its profiles have no single accelerator type.
    """
    if run.device == "cpu":
        return Kind(run.node, gpu=False, accelerator_type=run.node)
    types = {profile.accelerator_type for profile in find_profiles(run.node)}
    if len(types) > 1 or not all(types):
        raise StmdeployError(
            f"--gpu {run.node} has no single accelerator_type",
            "name a single profile, and give it an accelerator_type",
        )
    return Kind(run.node, gpu=True, accelerator_type=types.pop())


def nodes_for(kind: Kind, nodes: Sequence[Node], facts: Mapping[str, NodeFacts | str]) -> Chosen:
    """The nodes of a cluster that can run a kind.

    Args:
        facts: what nodes of the kind's accelerator type say of themselves, or why they do not
            answer, by their ids.

    Raises:
        StmdeployError: no node can run it, or nodes with different GPUs can.
    """
    of_type = [node for node in nodes if kind.accelerator_type in node.accelerator_types]
    if not of_type:
        raise StmdeployError(
            f"no node of the cluster has accelerator_type {kind.accelerator_type!r}, for "
            f"{kind.flag}; there {_there(nodes)}",
            "name a type that is there, or start such a node",
        )
    chosen, avoided = {}, {}
    for node in of_type:
        said = facts[node.id]
        if reason := why_not(kind, node, said):
            avoided[node.id] = f"{node.label}: {reason}"
        elif isinstance(said, NodeFacts):
            chosen[node] = said
    if not chosen:
        first = avoided[of_type[0].id]
        raise StmdeployError(
            f"no node can run {kind.flag}: {first}", "fix the node, or start another one"
        )
    return Chosen(chosen, avoided, _profile(kind, chosen) if kind.gpu else "")


def _there(nodes: Sequence[Node]) -> str:
    """``are A100 x2, T4 x1``: how many nodes there are of each accelerator type."""
    counted = Counter(word for node in nodes for word in sorted(node.accelerator_types))
    if not counted:
        return f"are {len(nodes)} nodes, none with an accelerator_type"
    return "are " + ", ".join(f"{word} x{count}" for word, count in sorted(counted.items()))


def why_not(kind: Kind, node: Node, facts: NodeFacts | str) -> str:
    """Why a node of the right type cannot run a kind; empty if it can."""
    if isinstance(facts, str):
        return facts
    if not kind.gpu:
        return ""
    fitting = [g for g in facts.gpus for p in find_profiles(kind.name) if p.fits(g.name)]
    if not fitting:
        names = ", ".join(gpu.name for gpu in facts.gpus) or "no GPU that NVML can see"
        return f"it has {names}"
    if all(gpu.sliced for gpu in fitting):
        return "MIG divides its GPUs"
    return "" if node.gpus else "it lends the cluster no GPU"


def _profile(kind: Kind, nodes: Mapping[Node, NodeFacts]) -> str:
    """The one profile of a kind: rows of one name must not be measured on different GPUs."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for node, said in nodes.items():
        for profile in find_profiles(kind.name):
            if any(profile.fits(gpu.name) for gpu in said.gpus):
                found[profile.name].append(node.name)
    if len(found) > 1:
        which = " and ".join(f"{name} ({', '.join(who)})" for name, who in sorted(found.items()))
        raise StmdeployError(
            f"{kind.flag} is {which} in this cluster", f"choose one, as in --gpu {min(found)}"
        )
    return min(found)


def check_runtimes(nodes: Mapping[Node, NodeFacts], runtimes: Iterable[str]) -> None:
    """Raises StmdeployError for a runtime that is not installed on one of the nodes."""
    for runtime in runtimes:
        for node, said in nodes.items():
            if reason := said.unavailable.get(runtime):
                told = f"node {node.label} cannot run {runtime}: {reason}"
                raise StmdeployError(told, "install it on the node")


def differences(
    nodes: Mapping[Node, NodeFacts], runtimes: Iterable[str], here: Environment
) -> tuple[str, ...]:
    """Packages whose versions differ among this machine and the nodes, in words.

    Raises:
        StmdeployError: stmdeploy itself differs; the nodes would not understand their tasks.
    """
    packages = _packages(runtimes)
    seen: defaultdict[tuple[str, ...], defaultdict[str, list[str]]] = defaultdict(
        lambda: defaultdict(list)
    )
    machines = ((node.name, said.environment) for node, said in nodes.items())
    for who, environment in [("this machine", here), *machines]:
        for names in packages:
            if version := next(filter(None, map(environment.versions.get, names)), ""):
                seen[names][version].append(who)
    found = {names: _in_words(names[0], by) for names, by in sorted(seen.items()) if len(by) > 1}
    if ("stmdeploy",) in found:
        told = f"versions differ: {found['stmdeploy',]}"
        raise StmdeployError(told, "install the same stmdeploy everywhere")
    return tuple(found.values())


def expected(nodes: Mapping[Node, NodeFacts], runtimes: Iterable[str]) -> dict[str, str]:
    """The versions that the nodes share, by package."""
    names = [name for library in _packages(runtimes) for name in library]
    everywhere = [said.environment.versions for said in nodes.values()]
    return {name: had[name] for had in everywhere for name in names if name in had}


def _packages(runtimes: Iterable[str]) -> set[tuple[str, ...]]:
    """Packages that measurements depend on; the names in one tuple are of the same library."""
    of_runtimes = {
        ("mlcommons_loadgen",) if name == LOADGEN else exporter_of(name).target.packages
        for name in runtimes
    }
    return {("stmdeploy",), *filter(None, of_runtimes)}


def _in_words(package: str, by_version: Mapping[str, list[str]]) -> str:
    """``torch 2.1 (T4-0) and 2.2 (T4-1)``; at most three machines per version are named."""
    listed = (f"{version} ({', '.join(who[:3])}{', ...' if len(who) > 3 else ''})"
              for version, who in by_version.items())  # fmt: skip
    return f"{package} {' and '.join(listed)}"
