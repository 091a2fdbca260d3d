"""Which nodes of a cluster may run what: by what they carry, what they are, and their versions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stmdeploy.errors import StmdeployError
from stmdeploy.hardware.profiles import find_profiles
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.schema.hardware import Environment
from stmdeploy.spec.run import RunSpec
from stmdeploy.sweeps.cluster.documents import NodeFacts
from stmdeploy.sweeps.cluster.fleet import Node

#: Stands for LoadGen among the runtimes that a node has.
LOADGEN = "loadgen"


@dataclass(frozen=True)
class Kind:
    """A kind of nodes, as a row names it: ``gpu`` or the processor is what measures.

    ``accelerator_type`` is what the cluster calls such nodes.
    """

    name: str
    gpu: bool
    accelerator_type: str

    @property
    def flag(self) -> str:
        """What asked for it."""
        return f"--{'gpu' if self.gpu else 'nodes'} {self.name}"


@dataclass(frozen=True)
class Chosen:
    """The nodes that run a kind's rows, and those of its type that may not, with the reason.

    ``profile`` is that of their GPU; empty where the processor measures.
    """

    nodes: tuple[Node, ...]
    avoided: Mapping[str, str]
    profile: str = ""


def kind_of(run: RunSpec) -> Kind:
    """The kind of nodes that a run is for.

    Raises:
        StmdeployError: no such GPU is known, or nobody knows what a cluster calls it.
    """
    if run.device == "cpu":
        return Kind(run.node, gpu=False, accelerator_type=run.node)
    types = {profile.accelerator_type for profile in find_profiles(run.node)}
    if len(types) > 1 or not all(types):
        raise StmdeployError(
            f"--gpu {run.node} has no single accelerator_type",
            "name one profile, and give it an accelerator_type",
        )
    return Kind(run.node, gpu=True, accelerator_type=types.pop())


def choose(
    kinds: Iterable[Kind], nodes: Sequence[Node], facts: Mapping[str, NodeFacts | str]
) -> dict[Kind, Chosen]:
    """The nodes for every kind.

    Args:
        nodes: of the cluster.
        facts: what they say of themselves, by id, or why they say nothing.

    Raises:
        StmdeployError: a kind that nobody has, or that is two here.
    """
    return {kind: _nodes_for(kind, nodes, facts) for kind in kinds}


def _nodes_for(kind: Kind, nodes: Sequence[Node], facts: Mapping[str, NodeFacts | str]) -> Chosen:
    of_type = [node for node in nodes if kind.accelerator_type in node.accelerator_types]
    if not of_type:
        raise StmdeployError(
            f"no node of the cluster has accelerator_type {kind.accelerator_type!r}, for "
            f"{kind.flag}; there {_there(nodes)}",
            "name what is there, or start such a node",
        )
    why = {node.id: why_not(kind, node, facts[node.id]) for node in of_type}
    chosen = tuple(node for node in of_type if not why[node.id])
    if not chosen:
        node = of_type[0]
        raise StmdeployError(
            f"no node can run {kind.flag}: {node.label}: {why[node.id]}",
            "fix the node, or start another one",
        )
    avoided = {node.id: f"{node.label}: {why[node.id]}" for node in of_type if why[node.id]}
    return Chosen(chosen, avoided, _profile(kind, chosen, facts) if kind.gpu else "")


def _there(nodes: Sequence[Node]) -> str:
    """``are A100 x2 and T4 x1``, or that there are none."""
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


def _profile(kind: Kind, nodes: Sequence[Node], facts: Mapping[str, NodeFacts | str]) -> str:
    """The one profile of a kind: rows of one name must not be measured on two GPUs."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for node in nodes:
        said = facts[node.id]
        if isinstance(said, NodeFacts):
            for profile in find_profiles(kind.name):
                if any(profile.fits(gpu.name) for gpu in said.gpus):
                    found[profile.name].append(node.name)
    if len(found) > 1:
        which = " and ".join(f"{name} ({', '.join(who)})" for name, who in sorted(found.items()))
        raise StmdeployError(
            f"{kind.flag} is {which} in this cluster", f"say which: --gpu {min(found)}"
        )
    return min(found)


def check_runtimes(
    chosen: Mapping[Kind, Chosen], runtimes: Iterable[str], facts: Mapping[str, NodeFacts | str]
) -> None:
    """Raises StmdeployError for a runtime that a chosen node has not installed."""
    wanted = list(runtimes)
    for node in _distinct(chosen):
        said = facts[node.id]
        assert isinstance(said, NodeFacts)
        for runtime in wanted:
            if reason := said.unavailable.get(runtime):
                raise StmdeployError(
                    f"node {node.label} cannot run {runtime}: {reason}", "install it on the node"
                )


def differences(
    chosen: Mapping[Kind, Chosen],
    runtimes: Iterable[str],
    facts: Mapping[str, NodeFacts | str],
    here: Environment,
) -> tuple[str, ...]:
    """Packages that differ between this machine and the nodes, or among the nodes, in words.

    Raises:
        StmdeployError: stmdeploy itself differs; then nodes would not understand their tasks.
    """
    seen: defaultdict[tuple[str, ...], defaultdict[str, list[str]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for who, environment in [("this machine", here), *_environments(chosen, facts)]:
        for names in _packages(runtimes):
            if version := next(filter(None, map(environment.versions.get, names)), ""):
                seen[names][version].append(who)
    found = {names: _in_words(names[0], by) for names, by in sorted(seen.items()) if len(by) > 1}
    if ("stmdeploy",) in found:
        raise StmdeployError(
            f"versions differ: {found['stmdeploy',]}", "install the same stmdeploy everywhere"
        )
    return tuple(found.values())


def expected(
    chosen: Mapping[Kind, Chosen],
    runtimes: Iterable[str],
    facts: Mapping[str, NodeFacts | str],
) -> dict[str, str]:
    """The versions of the nodes, which all have the same."""
    return {
        name: environment.versions[name]
        for _, environment in _environments(chosen, facts)
        for names in _packages(runtimes)
        for name in names
        if name in environment.versions
    }


def _packages(runtimes: Iterable[str]) -> set[tuple[str, ...]]:
    """Those that figures hang on; of one tuple are names of one library."""
    of_runtimes = {
        ("mlcommons_loadgen",) if name == LOADGEN else exporter_of(name).target.packages
        for name in runtimes
    }
    return {("stmdeploy",), *filter(None, of_runtimes)}


def _environments(
    chosen: Mapping[Kind, Chosen], facts: Mapping[str, NodeFacts | str]
) -> Iterator[tuple[str, Environment]]:
    for node in _distinct(chosen):
        said = facts[node.id]
        if isinstance(said, NodeFacts):
            yield node.name, said.environment


def _in_words(package: str, by_version: Mapping[str, list[str]]) -> str:
    listed = (f"{version} ({', '.join(who[:3])}{', ...' if len(who) > 3 else ''})"
              for version, who in by_version.items())  # fmt: skip
    return f"{package} {' and '.join(listed)}"


def _distinct(chosen: Mapping[Kind, Chosen]) -> tuple[Node, ...]:
    return tuple(dict.fromkeys(node for kind in chosen.values() for node in kind.nodes))
