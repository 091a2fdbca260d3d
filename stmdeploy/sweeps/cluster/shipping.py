"""The artifacts of a sweep's rows on their way to the nodes."""

from __future__ import annotations

from pathlib import Path

from stmdeploy.cluster.fleet import Fleet
from stmdeploy.cluster.shipping import Shipped, ship
from stmdeploy.errors import FailureKind, StmdeployError
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.sweeps.cluster.documents import BlockAnswer, BlockTask, RowTask
from stmdeploy.sweeps.prepared import PreparedSweep


class Shipping:
    """What was shared with the nodes of a fleet."""

    def __init__(self, prepared: PreparedSweep, fleet: Fleet[BlockTask, BlockAnswer]) -> None:
        self._prepared, self._fleet = prepared, fleet
        self._shipped: dict[Path, Shipped] = {}

    def task_of(self, spec: RowSpec) -> RowTask:
        """What a node is told of a row, whose artifact is shared with all nodes.

        Raises:
            StmdeployError: it is no longer what was prepared, or cannot be read.
        """
        try:
            shipped = self._ship(self._prepared.verified(spec))
        except OSError as error:
            told = f"its artifact cannot be read: {error}"
            raise StmdeployError(told, kind=FailureKind.NOT_EXPORTED) from error
        return RowTask(
            row=spec,
            artifact=shipped,
            is_source=exporter_of(spec.run.runtime).target.travels == "source",
            memory=self._prepared.memory(spec),
        )

    def _ship(self, path: Path) -> Shipped:
        if path not in self._shipped:
            self._shipped[path] = ship(path, self._fleet.share)
        return self._shipped[path]
