"""The nodes of a Ray cluster. No other module uses Ray."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from stmdeploy.cluster.facts import NodeFacts
from stmdeploy.cluster.fleet import Handle, Lost, Node, Place
from stmdeploy.cluster.shipping import Fetch
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.schema.document import Document

#: Prefix of the Ray resource that says which accelerator type a node has.
_TYPE_PREFIX = "accelerator_type:"
_NODE_ID = "ray.io/node-id"
_SURVEY_TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S, _HEAD_TIMEOUT_S = 5.0, 90.0
#: Variables that may hold a password, kept out of the environment of a cluster's processes.
_SECRETS = ("STMDEPLOY_STORE", "PGPASSWORD")
#: Words that `--cluster` takes instead of an address.
LOCAL, AUTO = "local", "auto"


TaskT = TypeVar("TaskT", bound=Document)
AnswerT = TypeVar("AnswerT", bound=Document)


@dataclass(frozen=True)
class Work(Generic[TaskT, AnswerT]):
    """What nodes do with tasks of a kind.

    Attributes:
        do: runs on a node: task, payload, the node, and how it fetches shared files -> answer. A
            function of a module, because nodes find it by its name.
        task, answer: their types.
        title: names a task in Ray's own tools.
        files: hashes of the shared files that a task needs.
    """

    do: Callable[[TaskT, bytes, Node, Fetch], AnswerT]
    task: type[TaskT]
    answer: type[AnswerT]
    title: Callable[[TaskT], str]
    files: Callable[[TaskT], Iterable[str]]


class RayFleet(Generic[TaskT, AnswerT]):
    """A connection to a Ray cluster, as a `Fleet`.

    A node has one unit of its accelerator type and a task takes it, so Ray never runs two tasks on
    one node. Ray does not retry failed tasks: the dispatcher does, and records each try.
    """

    def __init__(self, address: str, work: Work[TaskT, AnswerT]) -> None:
        """Connects to a cluster.

        Args:
            work: what its nodes are to do.
            address: ``ray://HOST:PORT`` from outside the cluster, ``HOST:PORT`` or ``auto`` on one
                of its machines, ``local`` to start a cluster on this machine alone.

        Raises:
            StmdeployError: Ray is not installed, or there is no cluster at the address.
        """
        try:
            import ray
        except ImportError:
            raise StmdeployError(
                "Ray, which reaches the nodes of a cluster, is not installed",
                "pip install 'stmdeploy[cluster]'",
            ) from None
        self._ray: Any = ray
        _connect(ray, address)
        self._survey = ray.remote(num_cpus=0, max_retries=0)(_facts)
        self._do = ray.remote(num_cpus=0, max_retries=0)(_do)
        self._work = work
        self._files: dict[str, Any] = {}

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that are alive now."""
        listed: list[dict[str, Any]] = _in_time(self._ray.nodes)
        return tuple(
            Node(
                id=node["NodeID"],
                name=node.get("NodeName") or node["NodeManagerHostname"],
                accelerator_types=frozenset(
                    name.removeprefix(_TYPE_PREFIX)
                    for name, amount in node["Resources"].items()
                    # With more than one unit, two rows could run at once.
                    if name.startswith(_TYPE_PREFIX) and amount == 1
                ),
                gpus=int(node["Resources"].get("GPU", 0)),
            )
            for node in sorted(listed, key=lambda node: str(node["NodeID"]))
            if node["Alive"]
        )

    def survey(self, nodes: Sequence[Node]) -> dict[str, NodeFacts | str]:
        """What nodes say of themselves, or why they do not answer, by their ids."""
        if not nodes:
            return {}
        with _lost_cluster():
            asked = {
                node.id: self._survey.options(label_selector={_NODE_ID: node.id}).remote()
                for node in nodes
            }
            self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=_SURVEY_TIMEOUT_S)
            return {id: self._facts_of(reference) for id, reference in asked.items()}

    def _facts_of(self, reference: Any) -> NodeFacts | str:
        try:
            return NodeFacts.model_validate_json(self._ray.get(reference, timeout=0))
        except self._ray.exceptions.GetTimeoutError:
            self._ray.cancel(reference, force=True)
            return f"it does not answer within {_SURVEY_TIMEOUT_S:g} s"
        except self._ray.exceptions.RayError as error:
            return _last_line(error)
        except ValueError as error:
            return f"it has another version of stmdeploy: {_last_line(error)}"

    def share(self, sha256: str, path: Path) -> None:
        """Puts a file into the object store, unless it is there already."""
        if sha256 not in self._files:
            with _lost_cluster():
                self._files[sha256] = self._ray.put(path.read_bytes())

    def start(self, task: TaskT, place: Place, payload: bytes = b"") -> Handle:
        """Hands a task to Ray, which finds a node for it."""
        options: dict[str, Any] = {
            "resources": {_TYPE_PREFIX + place.accelerator_type: 1},
            "num_gpus": 1 if place.gpu else 0,
            "name": f"stmdeploy {self._work.title(task)}",
        }
        if place.avoided:
            listed = ",".join(sorted(place.avoided))
            options["label_selector"] = {_NODE_ID: f"!in({listed})"}
        files = {sha256: self._files[sha256] for sha256 in self._work.files(task)}
        work = (self._work.do, self._work.task)
        with _lost_cluster():
            do = self._do.options(**options)
            handle: Handle = do.remote(work, task.model_dump_json(), payload, files)
        return handle

    def wait(
        self, started: Collection[Handle], timeout_s: float
    ) -> list[tuple[Handle, AnswerT | Lost]]:
        """Waits for at least one task to end; returns those that have, none after a timeout."""
        if not started:
            time.sleep(timeout_s)
            return []
        with _lost_cluster():
            ended, _ = self._ray.wait(list(started), num_returns=1, timeout=timeout_s)
            if ended:  # others may have ended at the same time
                ended, _ = self._ray.wait(list(started), num_returns=len(started), timeout=0)
            return [(reference, self._answer_of(reference)) for reference in ended]

    def _answer_of(self, reference: Any) -> AnswerT | Lost:
        try:
            return self._work.answer.model_validate_json(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return Lost(f"{type(error).__name__}: {_last_line(error)}")
        except ValueError as error:
            return Lost(f"it answered with another version of stmdeploy: {_last_line(error)}")

    def cancel(self, started: Collection[Handle]) -> None:
        """Cancels tasks, running ones too."""
        for reference in started:
            with _lost_cluster():
                self._ray.cancel(reference, force=True)

    def close(self) -> None:
        """Disconnects; Ray then ends tasks of this driver that still run."""
        self._files.clear()
        self._ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # By default, Ray ends this process when the head node has been gone for a minute.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "86400")
    _check_reachable(address)
    given: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        given |= {"include_dashboard": False}
    secrets = {name: os.environ.pop(name) for name in _SECRETS if name in os.environ}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **given)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise StmdeployError(
            f"--cluster {address}: no Ray cluster: {_last_line(error)}",
            "give ray://HOST:10001, or auto on a machine of the cluster; its versions of Ray and "
            "Python must be the same as here",
        ) from error
    finally:
        os.environ.update(secrets)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set its own handler


def _check_reachable(address: str) -> None:
    """Raises StmdeployError if nothing listens at HOST:PORT; Ray would wait for minutes."""
    host, found, port = address.rpartition(":")
    if not found or "/" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise StmdeployError(
            f"--cluster {address}: nothing listens there: {error.strerror or error}",
            "give the address that `ray start` printed, or ray://HOST:10001",
        ) from error


def _in_time(ask: Callable[[], Any]) -> Any:
    """The result of a call to the head node, which would block for ever if the head is gone.

    Raises:
        StmdeployError: (exit code 5) there is no answer within 90 s.
    """
    given: list[Any] = []

    def run() -> None:
        with suppress(Exception):
            given.append(ask())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_HEAD_TIMEOUT_S)
    with _lost_cluster():
        if not given:
            raise ConnectionError("its head node does not answer")
    return given[0]


@contextmanager
def _lost_cluster() -> Iterator[None]:
    """Turns the errors of a lost head node into one StmdeployError (exit code 5)."""
    from ray.exceptions import RayError

    try:
        yield
    except (ConnectionError, RuntimeError, RayError) as error:
        raise StmdeployError(
            f"the cluster is gone: {_last_line(error)}",
            "what was measured is kept; go on with --resume --cluster ADDRESS",
            ExitCode.WORKER_FAILED,
        ) from error


def _last_line(error: BaseException) -> str:
    """The last line of an error that is not blank."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _facts() -> str:
    """Runs on a node: its `NodeFacts` as JSON."""
    from stmdeploy.cluster.facts import facts_here

    return facts_here().model_dump_json()


def _do(work: tuple[Any, type[Document]], task: str, payload: bytes, files: dict[str, Any]) -> str:
    """Runs on a node: does a task, fetching files that the node does not have yet."""
    import ray

    def fetch(sha256: str) -> bytes:
        content: bytes = ray.get(files[sha256])
        return content

    id = str(ray.get_runtime_context().get_node_id())
    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    names = {node["NodeID"]: node.get("NodeName") for node in listed}
    here = Node(id, names.get(id) or os.uname().nodename, frozenset())
    do, kind = work
    answer: Document = do(kind.model_validate_json(task), payload, here, fetch)
    return answer.model_dump_json()
