"""Figures of a candidate that are exact, or nearly so: they need no statistics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from stmdeploy.check.outcome import Gate
from stmdeploy.check.policy import GATES
from stmdeploy.check.side_by_side import Pair
from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.schema.artifact import Artifact
from stmdeploy.schema.measurement import TurnsRun

FIDELITY = "fidelity"


def judge_gates(
    limits: Mapping[str, float], baseline: Artifact, candidate: Artifact, pairs: Sequence[Pair]
) -> tuple[Gate, ...]:
    """Judges every gate that is set and whose figure both sides have.

    Memory is the most that any process held, load the median of their load times; size, MACs
    (of the exported graph) and fidelity (the error against float64) come from the manifests.

    Args:
        limits: growth allowed in per cent, by gate.
        pairs: what was measured; without any, memory and load are left out.
    """
    before = _figures(baseline, [pair.baseline.run for pair in pairs])
    after = _figures(candidate, [pair.candidate.run for pair in pairs])
    return tuple(
        _gate(name, before[name], after[name], limit)
        for name, limit in limits.items()
        if name in before and name in after
    )


def _figures(artifact: Artifact, runs: Sequence[TurnsRun]) -> dict[str, float]:
    """What is known of one side, by gate."""
    manifest = artifact.manifest
    figures = {
        "size": artifact.size_bytes / BYTES_PER_MIB,
        FIDELITY: (manifest.fidelity or manifest.verification).relative_l2_error,
    }
    if manifest.cost is not None:
        figures["macs"] = float(sum(share.macs for share in manifest.cost.by_operator.values()))
    if runs:
        figures["memory"] = max(run.memory_peak_mib for run in runs)
        figures["load"] = statistics.median(run.load_ms for run in runs)
    return figures


def _gate(name: str, before: float, after: float, limit: float) -> Gate:
    growth = 100.0 * (after - before) / before if before else (0.0 if after == before else 1e9)
    return Gate(
        name=name,
        unit=GATES[name],
        baseline=before,
        candidate=after,
        growth_percent=growth,
        limit_percent=limit,
        broken=growth > limit and not math.isclose(growth, limit, abs_tol=1e-9),
    )
