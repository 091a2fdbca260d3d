"""Two files compared as they are: nothing was measured of either before, no baseline is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from stmdeploy.check.check import CheckSpec, compare
from stmdeploy.check.judging import Entry
from stmdeploy.check.machine import machine_key
from stmdeploy.check.outcome import CheckResult
from stmdeploy.check.sides import Contender
from stmdeploy.check.verdict import ALPHA, paired_slowdown
from stmdeploy.check.ways import Contest
from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import scratch_folder
from stmdeploy.plugins.progress import Progress
from stmdeploy.results.state import now_utc
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.schema.manifest import Manifest
from stmdeploy.spec.sweep import RowSpec, SweepSpec
from stmdeploy.sweeps.exports import export_rows, path_of

#: The way of comparing, as results name it.
FILES = "files"


@dataclass(frozen=True)
class FileRow:
    """A row of which nothing is known beforehand."""

    name: str
    calibrated: tuple[float, ...] = ()
    outputs: tuple[tuple[float, ...], ...] = ()
    runtime_version: str = ""


def check_files(
    spec: CheckSpec, before: SweepSpec, after: SweepSpec, progress: Progress
) -> CheckResult:
    """Compares every way of running one file with the same way of running another.

    Args:
        before, after: the same runs of one file each, in a precision of its own.

    Raises:
        StmdeployError: the files take different inputs, or one cannot be taken; and as `check`.
    """
    pairs = _pairs(before, after)
    with ExitStack() as stack:
        taken = [
            {
                row: read_artifact(path_of(made))
                for row, made in export_rows(
                    one, stack.enter_context(scratch_folder("check")), progress
                ).items()
            }
            for one in (before, after)
        ]
        several = len({old.run.threads for old, _ in pairs}) > 1
        entries = [
            _entry(spec, old, new, taken[0][old], taken[1][new], threads=several)
            for old, new in pairs
        ]
        rows = {entry.row.name: pair for entry, pair in zip(entries, pairs, strict=True)}
        for pattern in spec.policy.unused(set(rows)):
            progress.warn(f"WARNING: no row matches {pattern!r}")

        def contest(entry: Entry) -> Contest:
            old, new = rows[entry.row.name]
            return Contest(
                against=entry.baseline,
                other=entry.baseline.side(old.model, old.run),
                candidate=entry.candidate.side(new.model, new.run),
                estimate=paired_slowdown,
                threshold_percent=entry.policy.threshold_percent,
                prior=None,
            )

        return CheckResult(
            stmdeploy_version=version("stmdeploy"),
            created_utc=now_utc(),
            baseline=str(spec.baseline),
            candidate=str(spec.candidate),
            way=FILES,
            machine=machine_key(pairs[0][0].run.gpu_uuid),
            error_probability=ALPHA,
            cannot_tell=spec.policy.cannot_tell,
            rows=tuple(compare(spec, contest, (), entries, progress)),
        )


def _pairs(before: SweepSpec, after: SweepSpec) -> list[tuple[RowSpec, RowSpec]]:
    """Rows of both files on the same runtime at the same batch, precision by precision."""
    found = []
    theirs = list(after.rows())
    for old in before.rows():
        how = (old.run.batch, old.run.threads)
        same = [new for new in theirs if (new.run.batch, new.run.threads) == how]
        alike = [new for new in same if new.run.runtime == old.run.runtime]
        same = alike or (same if len({new.run.runtime for new in theirs}) == 1 else [])
        same = [new for new in same if new.run.precision == old.run.precision] or same
        if not same:
            raise StmdeployError(
                f"{after.models[0].name} cannot be run as {old.name}",
                "give a --runtime and a --batch that both files take",
            )
        found.append((old, same[0]))
    return found


def _entry(
    spec: CheckSpec,
    old: RowSpec,
    new: RowSpec,
    before: Artifact,
    after: Artifact,
    *,
    threads: bool,
) -> Entry:
    """A row; ``threads``: whether its name has their number, because others differ in it alone."""
    run, names = old.run, [old.model.name]
    names += [new.model.name] if new.model.name != old.model.name else []
    precisions = list(dict.fromkeys((run.precision, new.run.precision)))
    runtimes = list(dict.fromkeys((run.runtime, new.run.runtime)))
    told = "/".join(" > ".join(some) for some in (names, runtimes, precisions))
    told += f"/batch{run.batch}" + (f"/threads{run.threads}" if threads else "")
    _check_inputs(before.manifest, after.manifest, (spec.baseline, spec.candidate))
    return Entry(
        FileRow(told),
        old,
        spec.policy.of(told),
        Contender(before, spec.baseline_python),
        Contender(after, spec.candidate_python),
    )


def _check_inputs(before: Manifest, after: Manifest, paths: Sequence[Path | None]) -> None:
    """Raises StmdeployError if the two take other types or shapes."""
    told = [
        ", ".join(f"{one.dtype} {'x'.join(map(str, one.shape))}" for one in manifest.inputs)
        for manifest in (before, after)
    ]
    if told[0] != told[1]:
        raise StmdeployError(
            f"{paths[1]} takes {told[1]}, and {paths[0]} takes {told[0]}",
            "compare files of the same inputs; --input says what a file leaves open",
        )
