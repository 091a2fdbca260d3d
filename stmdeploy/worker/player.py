"""A worker that takes turns: it runs when its turn comes, and is stopped in between.

Threads of runtimes spin for a while when an inference is over, and a model may have threads of its
own: whoever waits is stopped as a whole, so that it takes nothing from the one whose turn it is.
"""

from __future__ import annotations

from typing import Generic, Self, TypeVar

from stmdeploy.errors import FailureKind
from stmdeploy.worker.client import WORKER
from stmdeploy.worker.jobs.job import TURN, Job
from stmdeploy.worker.process import ASIDE, Worker, WorkerError

T = TypeVar("T")


class Player(Generic[T]):
    """A worker with a job that takes turns; killed on leaving.

    Args:
        job: tells something once it is ready for its first turn, and after every turn.
        settings, python: as for `stmdeploy.worker.client.run_job`.
        timeout_s: how long it may take to get ready, for a turn, and to end; each of them.

    Raises:
        WorkerError: it cannot be started.
    """

    def __init__(
        self, job: Job[T], settings: dict[str, str], timeout_s: float, python: str = ""
    ) -> None:
        self._job = job
        self._worker = Worker(WORKER, settings, timeout_s, python=python)
        self._worker.send(job.model_dump_json())

    def __enter__(self) -> Self:
        self._worker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills the worker, if it still lives."""
        self._worker.__exit__()

    def listen(self) -> str:
        """What it tells next; it is stopped then.

        Raises:
            WorkerError: it died, or took too long.
            StmdeployError: why it cannot go on.
        """
        self._worker.wait_again()
        line = self._worker.receive()
        if line is not None and line.startswith(ASIDE):
            self._worker.pause()
            return line.removeprefix(ASIDE)
        if line is not None:
            self._answer(line)  # says why it cannot go on
        self._worker.check_end()
        raise WorkerError("it ended without an answer", FailureKind.ERROR)

    def take_turn(self) -> str:
        """Lets it take a turn; what it tells after that. Raises the same as `listen`."""
        self._worker.resume()
        self._worker.send(TURN)
        return self.listen()

    def end(self) -> T:
        """Tells it that there are no more turns; what its job gives.

        Raises:
            WorkerError: it died, or took too long.
            StmdeployError: what the job raised.
        """
        self._worker.resume()
        self._worker.finish()
        self._worker.wait_again()
        line = self._worker.receive()
        if line is None:
            self._worker.check_end()
        return self._answer(line or "")

    def _answer(self, line: str) -> T:
        try:
            return self._job.answer(line)
        except ValueError:
            raise WorkerError("it ended without an answer", FailureKind.ERROR) from None
