"""Where the time of every row of a sweep goes; nothing is measured, and nothing stored."""

from __future__ import annotations

from dataclasses import dataclass

from stmdeploy.errors import Failure, StmdeployError
from stmdeploy.files.writing import scratch_folder
from stmdeploy.plugins.progress import Progress
from stmdeploy.schema.measurement import OperatorTime
from stmdeploy.spec.sweep import RowSpec, SweepSpec
from stmdeploy.sweeps.explanation import operator_times
from stmdeploy.sweeps.exports import export_rows, path_of


@dataclass(frozen=True)
class LayerTimes:
    """The operators of some inferences of a row."""

    row: RowSpec
    inferences: tuple[tuple[OperatorTime, ...], ...]


def layers_of(spec: SweepSpec, progress: Progress, repeats: int = 10) -> list[LayerTimes]:
    """The operators of every row, in so many inferences.

    Raises:
        StmdeployError: bad input, or a row that failed.
    """
    found = []
    with scratch_folder("layers") as folder:
        artifacts = export_rows(spec, folder, progress)
        progress.expect(len(artifacts))
        for row, artifact in artifacts.items():
            progress.step(f"looking into {row.model.label} on {row.run.runtime}")
            path = path_of(artifact)
            try:
                times = operator_times(row, path, repeats, spec.row_timeout_s, progress)
            except StmdeployError as error:
                where = f"{row.model.label} on {row.run.runtime}: "
                raise Failure.of(error).error(where) from error
            found.append(LayerTimes(row, times))
    return found
