"""A real Ray cluster of several local nodes, CPU measuring underneath: kills, resumes, promises."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stmdeploy.cli.main import main
from stmdeploy.cluster.facts import NodeFacts
from stmdeploy.cluster.fleet import Lost, Place
from stmdeploy.cluster.ray_fleet import RayFleet
from stmdeploy.cluster.shipping import Shipped
from stmdeploy.results.state import DONE
from stmdeploy.results.store import Store
from stmdeploy.schema.row import Row
from stmdeploy.sweeps.cluster.documents import BlockAnswer, BlockTask, RowTask
from stmdeploy.sweeps.cluster.node import MEASURING
from tests.sweeps.cluster.local_cluster import LocalCluster

Fleet = RayFleet[BlockTask, BlockAnswer]

pytestmark = pytest.mark.slow
KINDS = {"A100": 2, "H100": 1, "L4": 1}


@pytest.fixture(scope="module", autouse=True)
def kinds(cluster: LocalCluster) -> None:
    """Two nodes of one kind, one of each of the others."""
    for kind, count in KINDS.items():
        for i in range(count):
            cluster.add(f"{kind}-{i}", kind)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "stmdeploy", "profile", *words]


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}


def _wait(until: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while not until():
        assert driver.poll() is None, f"the driver ended early, with {driver.returncode}"
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def _spans(rows: tuple[Row, ...]) -> dict[str, list[tuple[str, str]]]:
    """When each node measured a block, from its own answers."""
    spans: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        for attempt in row.tries:
            if attempt.node:
                spans[attempt.node].append((attempt.started_utc, attempt.ended_utc))
    return {node: sorted(set(of_node)) for node, of_node in spans.items()}


@pytest.mark.nightly
def test_a_killed_node_and_a_killed_driver_cost_no_row(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    out, batches = tmp_path / "out", "1,2,3,4"
    words = ["--cluster", cluster.address, "--nodes", ",".join(KINDS), "--threads", "1",
             "--stm", "convnext", "--scale", "nano", "--image-size", "32", "--no-explain",
             "--batch", batches, "--budget-s", "1.5", "--out", str(out)]  # fmt: skip
    driver = subprocess.Popen(_command(*words), env=_environment(tmp_path))

    def done(count: int) -> Callable[[], bool]:
        def enough() -> bool:
            if not (out / "results.db").exists():
                return False
            sweeps = Store(out).sweeps()
            return bool(sweeps) and sweeps[0].states.get(DONE, 0) >= count

        return enough

    # What no process has begun yet, Ray moves to another node without a word.
    _wait(lambda: cluster.is_measuring("A100-1"), driver)
    cluster.kill("A100-1")
    _wait(done(5), driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    store = Store(out)
    (sweep,) = store.sweeps()
    before = {row.batch: row for row in store.rows(sweep.id) if row.measurement is not None}
    assert sweep.unfinished, "it was killed in the middle"

    resumed = subprocess.run(
        _command("--resume", "--cluster", cluster.address, "--out", str(out), "--json"),
        env=_environment(tmp_path), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    document = json.loads(resumed.stdout)
    rows = store.rows(sweep.id)
    assert len(document["rows"]) == len(rows) == 12
    assert Counter(row.node for row in rows) == dict.fromkeys(KINDS, 4)
    assert len({(row.node, row.batch) for row in rows}) == 12, "every row exactly once"
    for row in rows:
        assert row.failure is None and row.measurement is not None
        assert row.tries[-1].node.startswith(row.node), "on a node of its kind"
        assert row.measurement.processes >= 3
    lost = [attempt for row in rows for attempt in row.tries if attempt.failure]
    assert any(not attempt.node for attempt in lost), "recorded"
    kept = {(row.node, row.batch): row.started_utc for row in rows}
    for row in before.values():
        assert kept[row.node, row.batch] == row.started_utc, "measured again"
    for spans in _spans(rows).values():
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans)), "two at once on a node"
    every = [(span, node) for node, of_node in _spans(rows).items() for span in of_node]
    assert any(
        a[0][0] < b[0][1] and b[0][0] < a[0][1]
        for a, b in itertools.combinations(every, 2)
        if a[1] != b[1]
    ), "nodes measure at the same time as each other"


@pytest.fixture
def fleet(cluster: LocalCluster) -> Iterator[Fleet]:
    fleet = RayFleet(cluster.address, MEASURING)
    yield fleet
    fleet.close()


def test_the_nodes_and_what_they_say(fleet: Fleet) -> None:
    found = {node.name: node for node in fleet.nodes()}
    assert found["H100-0"].accelerator_types == {"H100"}
    said = fleet.survey([found["H100-0"], found["L4-0"]])
    for node in (found["H100-0"], found["L4-0"]):
        facts = said[node.id]
        assert isinstance(facts, NodeFacts)
        assert facts.environment.versions["torch"]
        assert facts.gpus == ()
        assert "tensorrt" in facts.unavailable["tensorrt"]
        assert "onnxruntime" not in facts.unavailable


def test_a_file_that_is_not_what_it_should_be_is_a_failure(
    fleet: Fleet,
    make_task: Callable[..., BlockTask],
    make_row_task: Callable[..., RowTask],
    tmp_path: Path,
) -> None:
    """And the node says so, instead of measuring something else."""
    other = tmp_path / "other"
    other.write_bytes(b"something else")
    artifact = make_row_task().artifact
    for file in artifact.files:
        fleet.share(file.sha256, other)
    wrong = artifact.files[0].model_copy(update={"name": "another.onnx"})
    shipped = Shipped(manifest=artifact.manifest, files=(wrong, *artifact.files[1:]))
    handle = fleet.start(make_task(make_row_task(artifact=shipped)), Place("L4", gpu=False))
    ((_, answer),) = _until_ended(fleet, handle)
    assert isinstance(answer, BlockAnswer)
    (row,) = answer.rows
    assert row.failure and "another.onnx" in row.failure.message


@pytest.mark.nightly
def test_avoided_nodes_get_nothing(
    cluster: LocalCluster,
    fleet: Fleet,
    make_task: Callable[..., BlockTask],
) -> None:
    """Both tasks go to the other one, which tells a wrong version instead of measuring."""
    for name in ("T4-0", "T4-1"):
        cluster.add(name, "T4")
    first, second = (node for node in fleet.nodes() if "T4" in node.accelerator_types)
    task = make_task(versions={"onnxruntime": "0.1"})
    for file in task.rows[0].artifact.files:
        fleet.share(file.sha256, Path(__file__))
    place = Place("T4", gpu=False, avoided=frozenset({first.id}))
    for handle in [fleet.start(task, place) for _ in range(2)]:
        ((_, answer),) = _until_ended(fleet, handle)
        assert isinstance(answer, BlockAnswer)
        assert answer.node_id == second.id
        assert answer.misplaced.startswith("it has onnxruntime ")


def _until_ended(fleet: Fleet, handle: object) -> list[tuple[object, BlockAnswer | Lost]]:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if found := fleet.wait([handle], 1.0):
            return list(found)
    raise AssertionError("no answer")


@pytest.mark.nightly
def test_from_outside_of_the_cluster(cluster: LocalCluster, tmp_path: Path) -> None:
    """Through ray://, as from a laptop."""
    words = ["--cluster", cluster.client_address, "--nodes", "H100,L4", "--threads", "1",
             "--stm", "convnext", "--scale", "nano", "--image-size", "32", "--batch", "1",
             "--budget-s", "0.3", "--out", str(tmp_path / "out"), "--json"]  # fmt: skip
    found = subprocess.run(
        _command(*words), env=_environment(tmp_path), capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    rows = json.loads(found.stdout)["rows"]
    assert [row["node"] for row in rows] == ["H100", "L4"]
    assert all(row["efficiency"] and row["bound_ms"] for row in rows), "explained on the node"
    assert [row["node_name"][:4] for row in rows] == ["H100", "L4-0"]


@pytest.mark.nightly
def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    words = ["--cluster", "ray://127.0.0.1:1", "--nodes", "H100", "--threads", "1", "--dry-run"]
    found = subprocess.run(
        _command(*words), env=_environment(tmp_path), capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith("stmdeploy: --cluster ray://127.0.0.1:1: no ")
    assert "Traceback" not in found.stderr


def test_nobody_who_listens_is_said_soon(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["profile", "--nodes", "H100", "--threads", "1", "--dry-run"]
    assert main([*words, "--cluster", "127.0.0.1:1"]) == 2
    assert "--cluster 127.0.0.1:1: nothing listens there" in capsys.readouterr().err


def test_a_password_on_the_command_line_stays_off_the_cluster(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ray keeps the command lines of its drivers, and shows them."""
    words = ["profile", "--nodes", "H100", "--threads", "1", "--cluster", "127.0.0.1:1"]
    assert main([*words, "--store", "postgresql://me:secret@host/db"]) == 2
    said = capsys.readouterr().err
    assert "put the URL into STMDEPLOY_STORE" in said and "secret" not in said
