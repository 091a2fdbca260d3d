"""Shards of images over the nodes of a cluster: each image is looked at by one node, and counts
once, whatever happens to nodes and drivers meanwhile."""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from stmdeploy.backbones.images import NO_LABEL, images_of
from stmdeploy.cluster.facts import run_here
from stmdeploy.cluster.fleet import Fleet, Handle, Lost, Node, Place
from stmdeploy.cluster.kinds import kind_of
from stmdeploy.cluster.planning import ClusterSpec, Plan, plan
from stmdeploy.cluster.ray_fleet import RayFleet, Work
from stmdeploy.cluster.shipping import Fetch, Shipped, place_artifact, ship
from stmdeploy.errors import ExitCode, Failure, FailureKind, StmdeployError
from stmdeploy.files.reading import one_line
from stmdeploy.files.writing import scratch_folder, write_atomically
from stmdeploy.hardware.environment import environment
from stmdeploy.measure.predictions import Predictions
from stmdeploy.plugins.progress import Progress, Silent
from stmdeploy.schema.document import Document
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.client import run_job, worker_settings
from stmdeploy.worker.jobs.predict import Predicted, PredictJob, Shard, shard_name
from stmdeploy.worker.process import failure_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from stmdeploy.backbones.images import ImageFolder

#: How often a shard is tried, each time on another node if there is one.
_MOST_TRIES = 3
#: Shards handed out per node, so that no node waits for the driver.
_AHEAD = 2
_TICK_S, _LOOK_S = 1.0, 10.0
_NOTHING = Failure(FailureKind.ERROR, "it does not say how its predictions were made")


class ShardTask(Document):
    """A shard for a node to look at; its images come beside it.

    Attributes:
        job: what a worker of the node is to do; its paths are the driver's, and not used.
        profile: hardware profile of the GPU that must run it; empty for any.
        versions: versions that packages of the node must have, by name.
    """

    job: PredictJob
    shard: Shard
    artifact: Shipped
    reference: Shipped | None
    profile: str
    versions: dict[str, str]
    timeout_s: float


class ShardAnswer(Document):
    """What a node says of a shard: its predictions' file as base64, or why there is none.

    Attributes:
        misplaced: why this node cannot take it, which another one then gets; usually empty.
    """

    node_id: str
    node: str
    predictions: str = ""
    how: Predicted | None = None
    failure: Failure | None = None
    misplaced: str = ""


def look_at_shard(task: ShardTask, payload: bytes, here: Node, fetch: Fetch) -> ShardAnswer:
    """Runs on a node: a shard's images through the artifact; what goes wrong is in the answer."""
    known = {"node_id": here.id, "node": here.label}
    try:
        run = run_here(task.job.run, task.profile, task.versions)
    except StmdeployError as error:
        return ShardAnswer(**known, misplaced=error.message)
    try:
        content, how = _look(task, payload, run, fetch)
    except StmdeployError as error:
        return ShardAnswer(**known, failure=Failure.of(error))
    except Exception as error:  # noqa: BLE001  (without an answer nobody knows which node it was)
        return ShardAnswer(**known, failure=failure_of(error))
    return ShardAnswer(**known, predictions=base64.b64encode(content).decode(), how=how)


def _look(task: ShardTask, payload: bytes, run: RunSpec, fetch: Fetch) -> tuple[bytes, Predicted]:
    """The file of the shard's predictions, and how they were made."""
    artifact = place_artifact(task.artifact, fetch)
    reference = place_artifact(task.reference, fetch) if task.reference else None
    with scratch_folder("shard") as folder:
        data = _unpacked(payload, folder, labelled=task.job.data.labelled)
        found = images_of(data, task.job.model.head_classes)
        # Their names tell their places in the whole, which set the directions they move in.
        places = tuple(int(path.stem) for path, _ in found.files)
        job = task.job.model_copy(
            update={
                "artifact": artifact, "reference": reference, "run": run, "data": data,
                "data_sha256": found.sha256, "shards": (task.shard,), "folder": folder,
                "places": places,
            }
        )  # fmt: skip
        how = run_job(job, worker_settings(run), task.timeout_s, Silent(), while_silent=True)
        return (folder / shard_name(task.shard)).read_bytes(), how


def _packed(data: ImageFolder, shard: Shard) -> bytes:
    """The images of a shard, as ``CLASS/PLACE.SUFFIX``, which need no more packing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for place in range(*shard):
            path, label = data.files[place]
            name = f"{max(label, 0)}/{place:09}{path.suffix.lower()}"
            try:
                archive.writestr(name, path.read_bytes())
            except OSError:
                archive.writestr(name, b"")  # it is skipped there, and counted
    return buffer.getvalue()


def _unpacked(payload: bytes, folder: Path, *, labelled: bool) -> DataSpec:
    """Writes a shard's images into a folder; only names that `_packed` gives."""
    images, table = folder / "images", folder / "classes.json"
    labels: dict[str, int] = {}
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        for name in archive.namelist():
            label, file = PurePosixPath(name).parts
            if not label.isdecimal() or not PurePosixPath(file).stem.isdecimal():
                raise StmdeployError(f"a shard holds {name!r}", "install the same version")
            labels[label] = int(label)
            path = images / label / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
    if not labelled:
        return DataSpec(images, labelled=False)
    table.write_text(json.dumps(labels), "utf-8")
    return DataSpec(images, table)


#: What nodes of an evaluation do.
LOOKING = Work(
    do=look_at_shard,
    task=ShardTask,
    answer=ShardAnswer,
    title=lambda task: f"{task.job.model.label} {shard_name(task.shard)}",
    files=lambda task: [
        file.sha256
        for shipped in filter(None, (task.artifact, task.reference))
        for file in shipped.files
    ],
)


def run_on_cluster(
    cluster: ClusterSpec,
    job: PredictJob,
    shards: Sequence[Shard],
    data: ImageFolder,
    timeout_s: float,
    progress: Progress,
) -> Predicted:
    """Has shards looked at by the nodes of a cluster; each becomes a file in the job's folder.

    Raises:
        StmdeployError: as `RayFleet` and `plan`; (exit code 5) a shard that fails everywhere, or
            no node is left.
    """
    with closing(RayFleet(cluster.address, LOOKING)) as fleet:
        found = plan(fleet, [job.run], environment(), cluster)
        return ShardRun(fleet, found, cluster, job, data, timeout_s, progress).run(shards)


class ShardRun:
    """Shards that the nodes of one kind look at."""

    def __init__(
        self,
        fleet: Fleet[ShardTask, ShardAnswer],
        found: Plan,
        cluster: ClusterSpec,
        job: PredictJob,
        data: ImageFolder,
        timeout_s: float,
        progress: Progress,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet, self._cluster, self._job, self._data = fleet, cluster, job, data
        self._timeout_s, self._progress, self._now = timeout_s, progress, now
        self._kind = kind_of(job.run)
        chosen = found.chosen[self._kind]
        self._profile, self._versions = chosen.profile, dict(found.versions)
        self._avoided = set(chosen.avoided)
        for reason in chosen.avoided.values():
            progress.warn(f"a node is left out: {reason}")
        self._artifact = ship(job.artifact, fleet.share)
        self._reference = ship(job.reference, fleet.share) if job.reference else None
        self._failed_on: dict[Shard, set[str]] = {}
        self._tries: Counter[Shard] = Counter()
        self._how: list[Predicted] = []
        self._nodes: list[Node] = []
        self._looked, self._none_since = -float("inf"), float("inf")

    def run(self, shards: Sequence[Shard]) -> Predicted:
        """Until every shard has its file; raises as `run_on_cluster`."""
        waiting, running = deque(shards), dict[Handle, Shard]()
        total, done = len(waiting), 0
        try:
            while waiting or running:
                self._look()
                while waiting and len(running) < _AHEAD * len(self._nodes):
                    shard = waiting.popleft()
                    running[self._start(shard)] = shard
                for handle, answer in self._fleet.wait(running.keys(), _TICK_S):
                    shard = running.pop(handle)
                    if self._keep(shard, answer):
                        done += 1
                        self._progress.detail(f"{done} of {total} shards")
                    else:
                        waiting.append(shard)
        except BaseException:
            with suppress(StmdeployError):  # the cluster may be what is gone
                self._fleet.cancel(list(running))
            raise
        first = self._how[0]
        return first.model_copy(
            update={
                "total_s": sum(one.total_s for one in self._how),
                "waited_s": sum(one.waited_s for one in self._how),
            }
        )

    def _look(self) -> None:
        """Every 10 s asks for the nodes.

        Raises:
            StmdeployError: (exit code 5) there has been none for too long.
        """
        now = self._now()
        if now - self._looked < _LOOK_S:
            return
        self._looked, kind = now, self._kind.accelerator_type
        self._nodes = [
            node for node in self._fleet.nodes()
            if kind in node.accelerator_types and node.id not in self._avoided
        ]  # fmt: skip
        if self._nodes:
            self._none_since = float("inf")
            return
        self._none_since = min(self._none_since, now)
        if now - self._none_since > self._cluster.patience_s:
            raise StmdeployError(
                f"no node is left for {self._kind.flag}",
                "bring one back, and ask for the same again: what is done is kept",
                ExitCode.WORKER_FAILED,
                FailureKind.DEVICE,
            )

    def _start(self, shard: Shard) -> Handle:
        failed = self._failed_on.get(shard, set())
        spared = failed if any(node.id not in failed for node in self._nodes) else set()
        task = ShardTask(
            job=self._job,
            shard=shard,
            artifact=self._artifact,
            reference=self._reference,
            profile=self._profile,
            versions=self._versions,
            timeout_s=self._timeout_s,
        )
        avoided = frozenset(self._avoided | spared)
        place = Place(self._kind.accelerator_type, self._kind.gpu, avoided)
        return self._fleet.start(task, place, _packed(self._data, shard))

    def _keep(self, shard: Shard, answer: ShardAnswer | Lost) -> bool:
        """Saves a shard's predictions; False if it has to be looked at again.

        Raises:
            StmdeployError: it has failed too often, or in a way that no other node changes.
        """
        if isinstance(answer, Lost):
            self._looked = -float("inf")
            self._again(shard, Failure(FailureKind.DEVICE, answer.reason))
            return False
        if answer.misplaced:
            self._avoided.add(answer.node_id)
            self._looked = -float("inf")
            self._progress.warn(f"{answer.node} is left out: {answer.misplaced}")
            return False
        found = self._predictions(shard, answer)
        if isinstance(found, Failure) or answer.how is None:
            failure = found if isinstance(found, Failure) else _NOTHING
            self._failed_on.setdefault(shard, set()).add(answer.node_id)
            self._again(shard, failure)
            return False
        labels = _labels(self._data, found.places)
        write_atomically(
            self._job.folder / shard_name(shard), replace(found, labels=labels).to_bytes()
        )
        for place in found.skipped:
            self._progress.warn(f"skipped {self._data.files[int(place)][0]}: it cannot be read")
        self._how.append(answer.how)
        return True

    def _predictions(self, shard: Shard, answer: ShardAnswer) -> Predictions | Failure:
        """What a node says of all images of a shard, or why it does not."""
        if answer.failure is not None:
            return answer.failure
        try:
            content = base64.b64decode(answer.predictions)
            found = Predictions.from_bytes(content, len(self._job.views.views))
        except ValueError as error:
            told = f"the answer of {answer.node} cannot be read: {one_line(str(error))}"
            return Failure(FailureKind.ERROR, told)
        if not found.covers(*shard):
            return Failure(FailureKind.ERROR, f"{answer.node} told of other images")
        return found

    def _again(self, shard: Shard, failure: Failure) -> None:
        self._tries[shard] += 1
        final = failure.kind in (FailureKind.DIFFERS, FailureKind.INPUT)
        if final or self._tries[shard] >= _MOST_TRIES:
            raise failure.error(f"images {shard[0]} to {shard[1] - 1}: ")
        self._progress.warn(f"images {shard[0]} to {shard[1] - 1}: {failure.message}; tried again")


def _labels(data: ImageFolder, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Classes as the driver knows them: without labels, the folders of a shard say nothing."""
    import numpy as np

    labels = [data.files[int(place)][1] for place in places]
    assert all(label >= NO_LABEL for label in labels)
    return np.array(labels, np.int64)
