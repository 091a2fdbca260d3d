"""What a cluster costs: the time a node waits between two blocks of rows, as a share of a block.

Rows are not measured but slept, two seconds each, on local nodes of a real Ray cluster; everything
else is real: the store, the shipped artifact, the answers with their samples.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

from stmdeploy.cluster.fleet import Node
from stmdeploy.cluster.planning import ClusterSpec, plan
from stmdeploy.cluster.ray_fleet import RayFleet, Work
from stmdeploy.cluster.shipping import Fetch
from stmdeploy.hardware.environment import environment
from stmdeploy.plugins.progress import Silent
from stmdeploy.results.state import now_utc
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.cluster.dispatching import ClusterRun
from stmdeploy.sweeps.cluster.documents import BlockAnswer, BlockTask, RowAnswer
from stmdeploy.sweeps.cluster.node import MEASURING
from stmdeploy.sweeps.prepared import PreparedSweep
from stmdeploy.sweeps.process import ProcessLimits, Task, one_process
from tests.sweeps.cluster.local_cluster import local_cluster

ROW_S, ROWS_OF_A_NODE = 2.0, 28
KINDS = ("A100", "H100")
_SAMPLES = 1000


def _sleeping(process: ProcessRun) -> Work[BlockTask, BlockAnswer]:
    """Rows take a fixed time, and answer with what one real process measured."""
    document = process.model_dump_json()

    def sleep(task: BlockTask, _: bytes, here: Node, fetch: Fetch) -> BlockAnswer:
        started = now_utc()
        for file in task.rows[0].artifact.files:
            fetch(file.sha256)
        slept = ProcessRun.model_validate_json(document)
        time.sleep(ROW_S * len(task.rows))
        row = RowAnswer(device="asleep", processes=(slept,) * 3)
        return BlockAnswer(
            node_id=here.id,
            node=here.label,
            started_utc=started,
            ended_utc=now_utc(),
            environment=slept.environment,
            rows=(row,) * len(task.rows),
        )

    return replace(MEASURING, do=sleep)


def _seconds(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _measured(prepared: PreparedSweep, folder: Path) -> ProcessRun:
    """One process of a row, so that answers are as large as real ones."""
    row = prepared.spec.rows()[0]
    path = prepared.artifact_of(row).path
    assert path is not None
    limits = ProcessLimits(SamplingSpec(budget_s=0.3), 60.0, None)
    process = one_process(Task(row, path, limits, environment(), folder), Silent())
    samples = (process.samples_ms * _SAMPLES)[:_SAMPLES]
    return process.model_copy(update={"samples_ms": samples})


def main() -> None:
    """Prints the ratio."""
    runs = tuple(
        RunSpec("onnxruntime", batch + 1, 1, node=kind)
        for kind in KINDS
        for batch in range(ROWS_OF_A_NODE)
    )
    model = ModelSpec("unified_convnext_micro", (64, 64))
    spec = replace(SweepSpec((model,), runs), explain=False)
    with tempfile.TemporaryDirectory() as name, local_cluster() as cluster:
        store = Store(Path(name), create=True)
        store.add_sweep("s", spec.to_json(), [(row.key, row.to_json()) for row in spec.rows()])
        prepared = PreparedSweep(store, "s", Silent())
        prepared.prepare()
        for kind in KINDS:
            cluster.add(f"{kind}-0", kind)
        fleet = RayFleet(cluster.address, _sleeping(_measured(prepared, Path(name))))
        where = ClusterSpec(cluster.address)
        done: list[Row] = []
        began = time.perf_counter()
        ClusterRun(prepared, fleet, where, Silent(), done.append).measure(
            plan(fleet, spec.runs, environment(), where)
        )
        whole_s = time.perf_counter() - began
        fleet.close()
    gaps: list[float] = []
    blocks_s: list[float] = []
    for kind in KINDS:
        tries = [row.tries[0] for row in done if row.node == kind]
        spans = sorted({(tried.started_utc, tried.ended_utc) for tried in tries})
        blocks_s += [_seconds(*span) for span in spans]
        gaps += [_seconds(a[1], b[0]) for a, b in pairwise(spans)]
    print(f"{len(done)} rows of {ROW_S:g} s on {len(KINDS)} nodes of one each")
    print(
        f"between two blocks a node waits {1e3 * median(gaps):.0f} ms (median; mean "
        f"{1e3 * fmean(gaps):.0f}, most {1e3 * max(gaps):.0f}): "
        f"{100 * fmean(gaps) / fmean(blocks_s):.2f} % of a block"
    )
    print(
        f"all together, with planning and the start of the nodes' first processes: "
        f"{100 * (whole_s / (sum(blocks_s) / len(KINDS)) - 1):.1f} % over {ROWS_OF_A_NODE} rows"
    )


if __name__ == "__main__":
    main()
