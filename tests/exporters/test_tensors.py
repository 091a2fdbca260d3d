"""How a runner on a GPU records and replays a CUDA graph, by a recording of what torch is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from stmdeploy.exporters.tensors import TensorRunner
from stmdeploy.plugins.runner import Array
from stmdeploy.spec.run import RunSettings, RunSpec


class Recorded(TensorRunner):  # type: ignore[misc]
    """A runner whose torch writes down what it is told."""

    def __init__(self, *, optional: bool, refuses: bool = False) -> None:
        self.told: list[str] = []
        settings = RunSettings(cuda_graph=True, cuda_graph_optional=optional)
        self._run = RunSpec("torch", 1, 1, "cuda", settings=settings)
        self._stream: Any = SimpleNamespace(
            cuda_stream=7, synchronize=lambda: self.told.append("wait")
        )
        self._graph: Any = None
        self._refuses = refuses
        self._torch: Any = SimpleNamespace(
            cuda=SimpleNamespace(
                CUDAGraph=lambda: SimpleNamespace(replay=lambda: self.told.append("replay")),
                graph=self._capturing,
                stream=self._on,
                synchronize=lambda: self.told.append("wait for all"),
            )
        )

    @contextmanager
    def _capturing(self, graph: object, stream: object) -> Iterator[None]:
        assert graph is not None and stream is self._stream
        self.told.append("begin capture")
        yield
        self.told.append("end capture")
        if self._refuses:
            raise RuntimeError("operation not permitted when stream is capturing")

    @contextmanager
    def _on(self, stream: object) -> Iterator[None]:
        assert stream is self._stream
        yield

    def prepare(self, images: Array) -> None:
        raise AssertionError(f"not asked for, of {len(images)}")

    def _execute(self) -> None:
        self.told.append("run")

    def facts(self) -> dict[str, str]:
        return {}


def test_warm_runs_then_one_capture_then_replays() -> None:
    runner = Recorded(optional=False)
    runner._record()
    assert runner.told == [*["run", "wait"] * 3, "begin capture", "run", "end capture"]
    runner.told.clear()
    stream = runner.on_stream()
    assert stream is not None and stream.handle == 7
    for _ in range(2):
        stream.submit()
    stream.wait()
    runner.run()
    assert runner.told == ["replay", "replay", "wait", "replay", "wait"]


def test_what_cannot_be_recorded_goes_on_unless_it_was_asked_for() -> None:
    runner = Recorded(optional=True, refuses=True)
    runner._record()
    assert runner.told[-1] == "wait for all"
    runner.told.clear()
    runner.run()
    assert runner.told == ["run", "wait"]
    with pytest.raises(RuntimeError, match="not permitted"):
        Recorded(optional=False, refuses=True)._record()
