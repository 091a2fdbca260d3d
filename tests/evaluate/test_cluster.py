"""Shards of images over nodes that come, fail and die; every image counts once."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from stmdeploy import StmdeployError
from stmdeploy.backbones.images import ImageFolder, images_of
from stmdeploy.cli.main import main
from stmdeploy.cluster.facts import NodeFacts
from stmdeploy.cluster.fleet import Handle, Lost, Node, Place
from stmdeploy.cluster.planning import ClusterSpec, plan
from stmdeploy.cluster.shipping import ship
from stmdeploy.errors import ExitCode, Failure, FailureKind
from stmdeploy.evaluate import cluster as module
from stmdeploy.evaluate.cluster import ShardAnswer, ShardRun, ShardTask, look_at_shard
from stmdeploy.measure.predictions import Predictions
from stmdeploy.schema.artifact import Artifact
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.preparation import STANDARD
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.views import ViewSpec
from stmdeploy.worker.jobs.predict import Predicted, PredictJob, Shard, shard_name
from tests.digits import write_digits
from tests.fakes import RecordedProgress
from tests.sharing import SharedArtifacts
from tests.sweeps.cluster.local_cluster import local_cluster
from tests.sweeps.cluster.simulated import environment, facts, nodes

MODEL = ModelSpec("unified_convnext_nano", (32, 32), 10)
SHARDS: list[Shard] = [(0, 8), (8, 16), (16, 24), (24, 30)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "some", slice(0, 30), side=16)


@pytest.fixture
def artifact(artifacts: SharedArtifacts) -> Artifact:
    return artifacts.exported(MODEL, "onnx")


def job_of(artifact: Artifact, digits: Path, folder: Path, **more: object) -> PredictJob:
    data = DataSpec(digits)
    given = {
        "artifact": artifact.path, "model": MODEL, "run": RunSpec("onnxruntime", 4, 1, node="T4"),
        "data": data, "data_sha256": images_of(data, 10).sha256, "preparation": STANDARD,
        "views": ViewSpec(), "shards": (), "folder": folder, **more,
    }  # fmt: skip
    return PredictJob(**given)


#: What a node answers to a task; None: it dies of it.
Outcome = Callable[[ShardTask, Node], ShardAnswer | None]


@dataclass
class Simulated:
    """A fleet without machines, in which a task takes a second."""

    alive: list[Node]
    outcome: Outcome
    now: float = 0.0
    ran: list[tuple[Shard, str]] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._waiting: deque[tuple[int, ShardTask, Place]] = deque()
        self._number = 0

    def nodes(self) -> tuple[Node, ...]:
        return tuple(self.alive)

    def survey(self, nodes: Sequence[Node]) -> dict[str, NodeFacts | str]:
        return {node.id: facts() for node in nodes}

    def share(self, sha256: str, path: Path) -> None:
        assert path.is_file()
        self.shared.append(sha256)

    def start(self, task: ShardTask, place: Place, payload: bytes = b"") -> Handle:
        assert payload
        self._number += 1
        self._waiting.append((self._number, task, place))
        return self._number

    def wait(
        self, started: Collection[Handle], timeout_s: float
    ) -> list[tuple[Handle, ShardAnswer | Lost]]:
        self.now += timeout_s
        ended: list[tuple[Handle, ShardAnswer | Lost]] = []
        for node in list(self.alive):
            fitting = [one for one in self._waiting if node.id not in one[2].avoided]
            if not fitting:
                continue
            self._waiting.remove(fitting[0])
            number, task, _ = fitting[0]
            assert number in started
            self.ran.append((task.shard, node.name))
            answer = self.outcome(task, node)
            if answer is None:
                self.alive.remove(node)
            ended.append((number, answer or Lost("the node is dead")))
        return ended

    def cancel(self, started: Collection[Handle]) -> None:
        self._waiting = deque(one for one in self._waiting if one[0] not in started)

    def close(self) -> None:
        self._waiting.clear()


def predictions(places: Sequence[int], skipped: Sequence[int] = ()) -> Predictions:
    count = len(places)
    return Predictions(
        np.array(places, np.int64), np.zeros(count, np.int64), np.zeros((1, count), np.int64),
        np.ones((1, count), bool), np.zeros((1, count), np.float32), np.zeros(0, np.int64),
        np.array(skipped, np.int64),
    )  # fmt: skip


def answered(node: Node, found: Predictions | None = None, **more: object) -> ShardAnswer:
    how = Predicted(runtime_facts={}, environment=environment(), total_s=2.0, waited_s=0.5)
    content = base64.b64encode(found.to_bytes()).decode() if found is not None else ""
    given = {"predictions": content, "how": how if found is not None else None, **more}
    return ShardAnswer(node_id=node.id, node=node.label, **given)


def works(task: ShardTask, node: Node) -> ShardAnswer:
    return answered(node, predictions(range(*task.shard)))


def shard_run(
    fleet: Simulated, job: PredictJob, data: ImageFolder
) -> tuple[ShardRun, RecordedProgress]:
    progress, where = RecordedProgress(), ClusterSpec("simulated")
    found = plan(fleet, [job.run], environment(), where)
    made = ShardRun(fleet, found, where, job, data, 60.0, progress, lambda: fleet.now)
    return made, progress


def counted(folder: Path) -> list[int]:
    """The places in all shards' files."""
    found = [Predictions.from_bytes((folder / shard_name(s)).read_bytes(), 1) for s in SHARDS]
    return sorted(place for one in found for place in (*one.places, *one.skipped))


def test_every_image_once_while_nodes_fail_and_die(
    artifact: Artifact, digits: Path, tmp_path: Path
) -> None:
    bad = {"T4-0": 0}

    def outcome(task: ShardTask, node: Node) -> ShardAnswer | None:
        if node.name == "T4-0" and not bad["T4-0"]:
            bad["T4-0"] = 1
            return answered(node, failure=Failure(FailureKind.ERROR, "the engine failed"))
        if node.name == "T4-1":
            return None
        return works(task, node)

    fleet = Simulated(list(nodes(T4=3)), outcome)
    job, data = job_of(artifact, digits, tmp_path), images_of(DataSpec(digits), 10)
    made, progress = shard_run(fleet, job, data)
    how = made.run(SHARDS)
    assert counted(tmp_path) == list(range(30))
    assert how.total_s == 2.0 * len(SHARDS) and how.waited_s == 0.5 * len(SHARDS)
    assert len(fleet.shared) == len(set(fleet.shared)), "the artifact is shipped once"
    assert [name for _, name in fleet.ran].count("T4-1") == 1
    told = "\n".join(progress.warnings)
    assert "the engine failed; tried again" in told and "the node is dead; tried again" in told
    labels = Predictions.from_bytes((tmp_path / shard_name(SHARDS[0])).read_bytes(), 1).labels
    assert labels.tolist() == [label for _, label in data.files[:8]]


@pytest.mark.parametrize(
    ("answer", "told", "code"),
    [
        (lambda n, _: answered(n, failure=Failure(FailureKind.ERROR, "always")), "always", 5),
        (lambda n, _: answered(n, predictions([0, 1])), "told of other images", 5),
        (
            lambda n, _: answered(
                n, failure=Failure(FailureKind.DIFFERS, "not finite", code=ExitCode.OUTPUTS_DIFFER)
            ),
            "not finite",
            4,
        ),
    ],
)
def test_a_shard_that_fails_everywhere_ends_it(
    answer: Callable[[Node, ShardTask], ShardAnswer], told: str, code: int,
    artifact: Artifact, digits: Path, tmp_path: Path,
) -> None:  # fmt: skip
    fleet = Simulated(list(nodes(T4=2)), lambda task, node: answer(node, task))
    job, data = job_of(artifact, digits, tmp_path), images_of(DataSpec(digits), 10)
    made, _ = shard_run(fleet, job, data)
    with pytest.raises(StmdeployError, match=told) as caught:
        made.run(SHARDS)
    assert caught.value.code == code and caught.value.message.startswith("images ")
    tries = Counter(shard for shard, _ in fleet.ran)
    assert max(tries.values()) == (1 if code == 4 else 3)
    assert not list(tmp_path.glob("*.npz"))


def test_no_node_left(artifact: Artifact, digits: Path, tmp_path: Path) -> None:
    fleet = Simulated(list(nodes(T4=2)), lambda *_: None)
    job, data = job_of(artifact, digits, tmp_path), images_of(DataSpec(digits), 10)
    made, _ = shard_run(fleet, job, data)
    with pytest.raises(StmdeployError, match="no node is left for --nodes T4") as caught:
        made.run(SHARDS)
    assert caught.value.code is ExitCode.WORKER_FAILED and fleet.now > 300


@pytest.mark.slow
def test_what_runs_on_a_node(
    artifact: Artifact, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as here, of the shard's places; one image cannot be read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = images_of(DataSpec(digits), 10)
    contents: dict[str, bytes] = {}
    shipped = ship(artifact.path, lambda sha, path: contents.update({sha: path.read_bytes()}))
    job = job_of(artifact, digits, tmp_path, views=ViewSpec(("translation",)))
    task = ShardTask(
        job=job, shard=(8, 16), artifact=shipped, reference=None, profile="", versions={},
        timeout_s=300.0,
    )  # fmt: skip
    payload = module._packed(data, task.shard)
    here = Node("0" * 16, "test", frozenset())
    answer = look_at_shard(task, payload, here, contents.__getitem__)
    assert answer.failure is None and answer.how is not None
    found = Predictions.from_bytes(base64.b64decode(answer.predictions), 18)
    assert sorted(found.places) == list(range(8, 16))
    local = job_of(artifact, digits, tmp_path, views=job.views, shards=((8, 16),))
    from stmdeploy.worker.jobs.job import Parent

    with (tmp_path / "told").open("w") as pipe:
        local.do(Parent(pipe))
    mine = Predictions.from_bytes((tmp_path / shard_name((8, 16))).read_bytes(), 18)
    assert np.array_equal(found.of(mine.places).top1, mine.top1)
    other = task.model_copy(update={"versions": {"stmdeploy": "0.0"}})
    assert "it has stmdeploy" in look_at_shard(other, payload, here, contents.__getitem__).misplaced
    broken = look_at_shard(task, payload, here, lambda _: b"")
    assert broken.failure is None, "what is there is not fetched again"


def test_a_shard_writes_nowhere_else(tmp_path: Path) -> None:
    import io
    import zipfile

    for name in ("../../evil/1.png", "0/evil.png", "a/1.png"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(name, b"")
        with pytest.raises((StmdeployError, ValueError)):
            module._unpacked(buffer.getvalue(), tmp_path / "into", labelled=True)
    assert not (tmp_path / "evil").exists()


@pytest.mark.slow
@pytest.mark.nightly
def test_three_nodes_one_killed_and_the_driver_killed(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The same counts as on one machine."""
    monkeypatch.chdir(tmp_path)
    data = str(write_digits(tmp_path / "all", slice(None), side=16))
    words = ["invariance", str(artifact.path), "--data", data, "--batch", "32"]
    assert main([*words, "--out", "here", "--json"]) == 0
    (alone,) = json.loads(capsys.readouterr().out)["invariances"]
    with local_cluster() as cluster:
        for number in range(3):
            cluster.add(f"T4-{number}", "T4")
        where = ["--cluster", cluster.address, "--nodes", "T4", "--threads", "1", "--json"]
        command = [sys.executable, "-m", "stmdeploy", *words, *where]
        folder = tmp_path / "stmdeploy-results" / "predictions"

        def until(count: int) -> None:
            begun = time.monotonic()
            while len(list(folder.glob("*/*.npz"))) < count and time.monotonic() - begun < 300:
                time.sleep(0.1)

        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until(1)
        cluster.kill("T4-0")
        until(3)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        kept = len(list(folder.glob("*/*.npz")))
        assert kept >= 3 and not list(folder.glob("*.npz"))
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "were done before: going on" in second.stderr
    (shared,) = json.loads(second.stdout)["invariances"]
    assert shared["images"] == alone["images"] == 1797
    assert shared["curves"] == alone["curves"]
