"""The winner of a race as a TOML file of flags, which `--config` reads again.

Its keys are those of a sweep file. The table ``tuned`` says what the race found, and on which
machine; nothing is decided by it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import printable, read_toml
from stmdeploy.files.writing import write_atomically
from stmdeploy.hardware.machine import available_threads, processor_name
from stmdeploy.plugins.progress import Progress
from stmdeploy.report.text_table import significant
from stmdeploy.schema.row import Row
from stmdeploy.schema.tuned import Tuned, TunedCandidate
from stmdeploy.spec.export import CALIBRATED
from stmdeploy.spec.model import CLASSIFICATION, DEFAULT_CLASSES, ModelSpec
from stmdeploy.spec.tuning import TuneSpec

#: No inference takes longer, in ms.
_LONGEST_MS = 1e9
#: The table that says where the flags come from.
TUNED = "tuned"


def write_tuned(found: Tuned, spec: TuneSpec, gpu: str = "") -> Path:
    """Writes the winner into the folder of its race, and gives the path.

    Args:
        gpu: the GPU, as ``--gpu`` names it; empty for the processor.

    Raises:
        StmdeployError: the folder cannot be written to.
    """
    best, (height, width) = found.named(found.best), spec.model.image_size
    lines = [
        f"# By `stmdeploy tune`, {found.environment.processor}, {found.started_utc[:10]}.",
        f"# Use it by {'FILE ' * bool(spec.model.file)}--config; flags beside it override it.",
        *_lines(_flags(best, spec, gpu)),
        "",
        f"[{TUNED}]",
        *_lines(_about(best, found, spec)),
    ]
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in spec.model.name)
    path = spec.folder / f"{name}-{height}x{width}-batch{best.batch}-{found.objective}.toml"
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    return path


def _flags(best: TunedCandidate, spec: TuneSpec, gpu: str) -> dict[str, Any]:
    """The winner as flags; None for those that are left at their defaults."""
    model = spec.model
    calibrated = best.precision in CALIBRATED
    return {
        **_named(model),
        "checkpoint": model.checkpoint,
        "task": None if model.task == CLASSIFICATION else model.task,
        "neck": model.neck or None,
        "gpu": gpu or None,
        "batch": best.batch,
        "in_flight": best.in_flight if best.in_flight > 1 else None,
        "runtime": best.runtime,
        "precision": best.precision,
        "lowering": None if model.is_custom or model.file else best.lowering,
        "threads": best.threads,
        "calibration": str(spec.data.folder) if spec.data is not None and calibrated else None,
        "calibration_images": spec.calibration.images if calibrated else None,
        **best.settings,
    }


def _named(model: ModelSpec) -> dict[str, Any]:
    """The model as flags; a file is named beside them."""
    if model.file is not None:
        return {}
    height, width = model.image_size
    return {
        "model" if model.is_custom else "stm": model.name,
        "image_size": f"{height}x{width}",
        "num_classes": None if model.num_classes == DEFAULT_CLASSES else model.num_classes,
    }


def _about(best: TunedCandidate, found: Tuned, spec: TuneSpec) -> dict[str, Any]:
    """What the race found, and where."""
    where = found.environment
    return {
        "objective": found.objective,
        "latency_ms_p50": best.latency_ms_p50,
        "latency_ms_p50_low": best.latency_ms_p50_low,
        "latency_ms_p50_high": best.latency_ms_p50_high,
        "ratio_to_usual": next((one.ratio for one in best.ratios if one.of == found.usual), None),
        "artifact_sha256": best.artifact_sha256,
        "processor": where.processor,
        "threads_available": where.threads_available,
        "gpu": spec.runs[0].gpu_name,
        "started_utc": found.started_utc,
        "stmdeploy_version": found.stmdeploy_version,
    }


def _lines(table: Mapping[str, Any]) -> list[str]:
    """TOML of numbers, booleans and texts, whose escapes are JSON's."""
    return [f"{key} = {json.dumps(value)}" for key, value in table.items() if value is not None]


def warn_if_elsewhere(table: Mapping[str, Any], where: str, progress: Progress) -> None:
    """Warns if a tuned file is of another machine than this one."""
    here = {"processor": processor_name(), "threads_available": available_threads()}
    differ = [f"{table[key]!s} there, {mine} here" for key, mine in here.items()
              if key in table and table[key] != mine]  # fmt: skip
    if differ:
        progress.warn(
            f"WARNING: {where} was tuned on another machine "
            f"({printable('; '.join(differ))[:200]}): something else may be faster here; run "
            "stmdeploy tune"
        )


def compared_with(table: Mapping[str, Any], rows: tuple[Row, ...]) -> str:
    """What a race found beside what was measured now; empty if there is nothing to compare."""
    measured = rows[0].measurement if len(rows) == 1 else None
    names = ("latency_ms_p50", "latency_ms_p50_low", "latency_ms_p50_high")
    then = [table.get(name) for name in names]
    if measured is None or not all(map(_is_time, then)):
        return ""
    now = [getattr(measured, name) for name in names]
    apart = then[1] > now[2] or now[1] > then[2]
    shown = ["{} ({} .. {}) ms".format(*map(significant, some)) for some in (then, now)]
    verdict = "the intervals do not meet: this machine is in another state" if apart else "as tuned"
    return f"tuned at {shown[0]}; now {shown[1]}: {verdict}"


def _is_time(value: object) -> bool:
    """Whether a value from a file can be a latency in ms."""
    return isinstance(value, (int, float)) and 0 < value < _LONGEST_MS


def tuned_of(path: Path) -> Mapping[str, Any]:
    """The table about the race in a file of flags; empty if it has none.

    Raises:
        StmdeployError: there is no such file, or it is no table of numbers and texts.
    """
    where, hint = f"--config {path}", "give a TOML file that stmdeploy tune wrote"
    told = read_toml(path, "--config", hint).get(TUNED, {})
    if not isinstance(told, dict) or not all(
        isinstance(value, (str, int, float)) for value in told.values()
    ):
        raise StmdeployError(f"{where}: {TUNED} is no table of figures", hint)
    return told
