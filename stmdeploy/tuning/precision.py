"""The precision of every part of a model, chosen so that what is asked holds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import staging
from stmdeploy.hardware.environment import environment
from stmdeploy.hardware.machine import processor_name
from stmdeploy.measure.contrasts import FEWEST_WAVES
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_for_target
from stmdeploy.results.state import now_utc
from stmdeploy.schema.artifact import Artifact, publish_artifact, read_artifact
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.mixed import Choice, RatioTo, Sensitivity
from stmdeploy.spec.export import FULL_PRECISION
from stmdeploy.spec.run import ROW_TIMEOUT_S, RunSpec, SamplingSpec
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.spec.trials import TrialSpec
from stmdeploy.sweeps.comparing import contrasts_of, waves_of
from stmdeploy.sweeps.process import ProcessLimits, Task, in_turns
from stmdeploy.worker.client import run_job
from stmdeploy.worker.exports import export_model
from stmdeploy.worker.jobs.trials import TrialsAnswer, TrialsJob

#: Names of the artifacts that are compared by turns.
CHOSEN, FP32, LOW = "chosen", "fp32", "low precision alone"


def measure_sensitivity(spec: TrialSpec, timeout_s: float, progress: Progress) -> Sensitivity:
    """What a low precision costs every part of a model; raises as `Trials`."""
    return _answer(spec, timeout_s, progress).sensitivity


def export_mixed(spec: TrialSpec, timeout_s: float, progress: Progress) -> Artifact:
    """Exports a model with the fewest parts in float32 with which the limits hold, over images that
    chose nothing; in float32 as a whole if they hold with none, or if that is no slower.

    How it was chosen, what was tried and the latency by turns are in the manifest.

    Returns:
        The artifact, in the folder that `spec.export` names.

    Raises:
        StmdeployError: as `Trials` and `export_model`.
    """
    answer, export = _answer(spec, timeout_s, progress), spec.export
    assert answer.choice is not None
    with staging(export.folder) as scratch:
        made = _made(spec, answer, scratch, timeout_s, progress)
        choice = answer.choice
        ratios = _ratios(spec, made, progress) if len(made) > 1 else []
        if ratios:
            choice = choice.model_copy(
                update={
                    "latency": tuple(one for mine, one in ratios if mine == CHOSEN),
                    "latency_threads": spec.threads,
                    "processor": processor_name(),
                    "measured_utc": now_utc(),
                }
            )
        winner = made[CHOSEN if _is_faster(choice) and CHOSEN in made else FP32]
        if winner is made[FP32]:
            progress.warn(_why_not(choice, export.precision))
        return _published(winner, choice, export.folder)


def _answer(spec: TrialSpec, timeout_s: float, progress: Progress) -> TrialsAnswer:
    export = spec.export
    if export.model.task != "classification":
        raise StmdeployError(
            "a detection backbone gives maps, not classes",
            "choose by hand: --precision and --keep; the manifest tells the fidelity",
        )
    exporter_for_target(export.target)
    spec.folder.mkdir(parents=True, exist_ok=True)
    job = TrialsJob(trials=replace(spec, folder=spec.folder.resolve()))
    threads = {"OMP_NUM_THREADS": str(spec.threads)}
    return run_job(job, threads, timeout_s, progress, while_silent=True)


def _made(
    spec: TrialSpec, answer: TrialsAnswer, scratch: Path, timeout_s: float, progress: Progress
) -> dict[str, Artifact]:
    """The artifact in float32; the chosen one, if one was chosen; and the one of low precision
    alone, if that is another."""
    export = replace(spec.export, folder=scratch.resolve())
    wanted = {FP32: replace(export, precision=FULL_PRECISION, keep=(), lowering=None)}
    if answer.kept is not None:
        wanted[CHOSEN] = replace(export, keep=answer.kept)
        if answer.kept:
            wanted[LOW] = export
    prepared = export_model(export.model, list(wanted.values()), timeout_s, progress)
    made = {}
    for name, one in zip(wanted, prepared.artifacts, strict=True):
        if one.failure is not None or one.path is None:
            assert one.failure is not None
            raise one.failure.error(f"{export.model.label}, {name}: ")
        made[name] = read_artifact(one.path)
    return made


def _ratios(
    spec: TrialSpec, made: Mapping[str, Artifact], progress: Progress
) -> list[tuple[str, RatioTo]]:
    """The latency of every artifact over that of every other, by turns; none if they do not run
    here."""
    if any(artifact.manifest.not_run for artifact in made.values()):
        progress.warn("the latency was not measured: the artifacts do not run on this machine")
        return []
    runtime = exporter_for_target(spec.export.target).target.runtimes[0]
    here, dice, sampling = environment(), random.Random(spec.seed), SamplingSpec()
    limits = ProcessLimits(sampling, ROW_TIMEOUT_S, None)
    tasks: dict[str, Task] = {}
    for name, artifact in made.items():
        run = RunSpec(runtime, 1, spec.threads, precision=artifact.manifest.precision)
        row = RowSpec(spec.export.model, run)
        tasks[name] = Task(row, artifact.path, limits, here, spec.folder)
    runs: dict[str, list[ProcessRun]] = {name: [] for name in made}
    progress.expect(sampling.processes * len(tasks))
    for wave in range(max(sampling.processes, FEWEST_WAVES)):
        for name, given in in_turns(tasks, wave, dice, progress).items():
            if isinstance(given, StmdeployError):
                raise given
            runs[name].append(given)
    waves = {name: waves_of(processes) for name, processes in runs.items()}
    found = contrasts_of(waves, dict.fromkeys(made, 1))
    ratios = []
    for one, other in [pair for both in combinations(made, 2) for pair in (both, both[::-1])]:
        ratio = found[one][other].ratio()
        ratios.append((one, RatioTo(of=other, ratio=ratio.ratio, low=ratio.low, high=ratio.high)))
    return ratios


def _is_faster(choice: Choice) -> bool:
    """Whether the chosen artifact is surely faster than that in float32; where neither runs here,
    it is taken to be."""
    to_fp32 = [one for one in choice.latency if one.of == FP32]
    return choice.held and all(one.high < 1 for one in to_fp32)


def _why_not(choice: Choice, precision: str) -> str:
    if not choice.held:
        return f"no part can be in {precision} so that the limits hold: fp32 is written"
    (to_fp32,) = (one for one in choice.latency if one.of == FP32)
    return (
        f"the choice takes {to_fp32.ratio:.3f} of the time of fp32 ({to_fp32.low:.3f} .. "
        f"{to_fp32.high:.3f}), which is not surely less: fp32 is written"
    )


def _published(artifact: Artifact, choice: Choice, folder: Path) -> Artifact:
    """Moves an artifact into a folder, with the choice in its manifest."""
    manifest = artifact.manifest.model_copy(update={"choice": choice}).sealed()
    return publish_artifact(artifact.path.parent, manifest, folder)
