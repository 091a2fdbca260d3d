"""Figures of a candidate that are exact, or nearly so: they need no statistics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from stmdeploy.check.outcome import Gate
from stmdeploy.check.side_by_side import Pair
from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.schema.artifact import Artifact
from stmdeploy.schema.manifest import Manifest

_UNITS = {"memory": "MiB", "load": "ms", "size": "MiB", "macs": "MACs", "fidelity": "relative L2"}
FIDELITY = "fidelity"


def judge_gates(
    limits: Mapping[str, float], baseline: Artifact, candidate: Artifact, pairs: Sequence[Pair]
) -> tuple[Gate, ...]:
    """Every gate that is set and whose figure both sides have.

    Memory is the most that any process held, load the median of their load times; size, MACs
    (of the exported graph) and fidelity (the error against float64) come from the manifests.

    Args:
        limits: growth allowed in per cent, by gate.
        pairs: what was measured; with none, memory and load are left out.
    """
    figures = {
        "memory": _peaks(pairs),
        "load": _loads(pairs),
        "size": (baseline.size_bytes / BYTES_PER_MIB, candidate.size_bytes / BYTES_PER_MIB),
        "macs": (_macs(baseline.manifest), _macs(candidate.manifest)),
        FIDELITY: (_error(baseline.manifest), _error(candidate.manifest)),
    }
    return tuple(
        _gate(name, *figures[name], limit)
        for name, limit in limits.items()
        if None not in figures[name]
    )


def _gate(name: str, before: float | None, after: float | None, limit: float) -> Gate:
    assert before is not None
    assert after is not None
    growth = 100.0 * (after - before) / before if before else (0.0 if after == before else 1e9)
    return Gate(
        name=name,
        unit=_UNITS[name],
        baseline=before,
        candidate=after,
        growth_percent=growth,
        limit_percent=limit,
        broken=growth > limit and not math.isclose(growth, limit, abs_tol=1e-9),
    )


def _peaks(pairs: Sequence[Pair]) -> tuple[float | None, float | None]:
    if not pairs:
        return None, None
    return (
        max(pair.baseline.run.memory_peak_mib for pair in pairs),
        max(pair.candidate.run.memory_peak_mib for pair in pairs),
    )


def _loads(pairs: Sequence[Pair]) -> tuple[float | None, float | None]:
    if not pairs:
        return None, None
    return (
        statistics.median(pair.baseline.run.load_ms for pair in pairs),
        statistics.median(pair.candidate.run.load_ms for pair in pairs),
    )


def _macs(manifest: Manifest) -> float | None:
    if manifest.cost is None:
        return None
    return float(sum(share.macs for share in manifest.cost.by_operator.values()))


def _error(manifest: Manifest) -> float:
    judged = manifest.fidelity or manifest.verification
    return judged.relative_l2_error
