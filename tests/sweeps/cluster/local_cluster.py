"""A Ray cluster on this machine whose nodes carry accelerator types that it does not have.

Underneath, every node measures the CPU; each has a folder for temporary files of its own, so
that nothing but the cluster keeps two of them from measuring at the same time.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Quicker than a cluster of many machines must be.
_SYSTEM = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}


class LocalCluster:
    """Nodes that can be added and killed."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._folder, self._client_port = folder, _free_port()
        self._cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "ray_client_server_port": self._client_port,
                "_system_config": _SYSTEM,
            },
        )
        self._nodes: dict[str, Any] = {}

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @property
    def client_address(self) -> str:
        return f"ray://127.0.0.1:{self._client_port}"

    def add(self, name: str, accelerator_type: str, **variables: str) -> None:
        """One more node; `variables` are of its environment."""
        own = self._folder / name
        own.mkdir()
        self._nodes[name] = self._cluster.add_node(
            num_cpus=1,
            node_name=name,
            resources={f"accelerator_type:{accelerator_type}": 1},
            env_vars={"TMPDIR": str(own), **variables},
            object_store_memory=100 * 2**20,
        )

    def is_measuring(self, name: str) -> bool:
        """Whether a process of a row runs on a node now: it holds the machine's lock."""
        for path in (self._folder / name).rglob("measuring.lock"):
            with path.open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        return False

    def kill(self, name: str) -> None:
        """As a machine that loses its power."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def local_cluster() -> Iterator[LocalCluster]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="stmdeploy-cluster-", dir="/tmp") as folder:
        cluster = LocalCluster(Path(folder))
        try:
            yield cluster
        finally:
            cluster.close()
