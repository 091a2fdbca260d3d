"""From a spec to rows, with real exports and real workers."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.plugins.progress import Silent
from stmdeploy.results.state import DONE, FAILED, MEASURING, Measured
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import read_artifact
from stmdeploy.schema.row import Row
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.asked import check_sweep
from stmdeploy.sweeps.folder import prune
from stmdeploy.sweeps.profile import Place, ResumeSpec, SweepResult, profile, resume
from tests.fakes import RecordedProgress
from tests.sharing import export_model

#: One process of each row.
FAST = SamplingSpec(
    budget_s=0.1, processes=1, warmup_s=0.01, warmup_min=2,
    min_samples=8,
)  # fmt: skip
SMALL = ModelSpec("unified_convnext_nano", image_size=(32, 32), num_classes=10)
#: What a model can do to the worker that measures it: a batch for every misdeed. Exporting and
#: verifying use batches 1 and 3.
RIVALS = """
import ctypes, time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)
    def forward(self, x):
        return self.fc(x.flatten(1))

class Misbehaved(Net):
    def forward(self, x):
        if x.shape[0] == 5:
            ctypes.string_at(0)
        if x.shape[0] == 6:
            time.sleep(600)
        if x.shape[0] >= 8:
            self.eaten = [torch.ones(2**26) for _ in range(100)]
        return super().forward(x)

class Fixed(Net):
    def forward(self, x):
        y = super().forward(x)
        return y if x.shape[0] == 2 else -y

class Large(Net):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(2**22))

class Dies(Net):
    def forward(self, x):
        if torch.compiler.is_exporting():
            ctypes.string_at(0)
        return super().forward(x)

def broken():
    raise ValueError("no weights")
"""


@pytest.fixture(autouse=True)
def rivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pipeline_rivals.py").write_text(RIVALS)
    (tmp_path / "random.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rival(name: str) -> ModelSpec:
    return ModelSpec(f"pipeline_rivals:{name}", image_size=(2, 2))


def run(spec: SweepSpec, folder: Path = Path("out")) -> tuple[SweepResult, RecordedProgress]:
    rows: list[Row] = []
    progress = RecordedProgress()
    result = profile(spec, Place(folder), progress, rows.append)
    told, stored = ({row.key: row for row in some} for some in (rows, result.rows))
    assert told.keys() == stored.keys() and len(rows) == len(result.rows)
    # The first row is the reference of others, and measured on beside those that come later.
    assert all(told[row.key] == row for row in result.rows[1:])
    assert len(progress.steps) <= progress.expected
    return result, progress


def sweep(*runs: RunSpec, models: tuple[ModelSpec, ...] = (), **changes: object) -> SweepSpec:
    spec = SweepSpec(models or (rival("Net"),), runs, sampling=FAST, explain=False)
    return replace(spec, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_row_says_how_near_it_is_to_its_bound_and_where_its_time_goes() -> None:
    runs = (RunSpec("onnxruntime", 2, 1), RunSpec("torch", 2, 1))
    spec = sweep(*runs, models=(SMALL,), sampling=replace(FAST, processes=2), explain=True)
    progress = RecordedProgress()
    profile(spec, Place(Path("out")), progress, lambda _: None)
    graph, plain = Store(Path("out")).rows(Store(Path("out")).find_sweep(None).id)
    assert graph.bound is not None
    assert graph.efficiency is not None
    assert 0 < graph.efficiency <= 1
    # The graph has a few products more than the model: biases in a channel of their own.
    assert graph.bound.macs == pytest.approx(2 * graph.matmul_conv_macs, rel=0.1)
    assert graph.bound.bound_ms == pytest.approx(sum(graph.bound.parts_ms.values()))
    assert graph.parts_ms is not None
    assert {"stem", "stage 3 mixer", "stage 3 mlp", "head"} <= set(graph.parts_ms)
    # PyTorch's artifact is weights alone: no graph, no bound; its profiler tells all the same.
    assert plain.bound is None
    assert plain.parts_ms is not None
    assert len(progress.steps) <= progress.expected + dict(progress.phases)["explaining"]


@pytest.mark.slow
def test_rows_carry_what_was_measured() -> None:
    batches = [RunSpec("torch", batch, 1) for batch in (1, 4)]
    result, _ = run(sweep(*batches, models=(SMALL,), sampling=replace(FAST, processes=2)))
    rows = result.rows
    assert [row.batch for row in rows] == [1, 4]
    store = Store(Path("out"))
    for position, row in enumerate(rows):
        assert row.failure is None
        assert row.measurement is not None
        assert row.measurement.latency_ms_p50 > 0
        assert row.measurement.latency_with_copies_ms_p50 is not None
        assert row.measurement.processes >= 2
        assert row.measurement.samples == sum(
            len(process.samples_ms) for process in store.processes(result.sweep.id, position)
        )
        assert row.measurement.memory_peak_mib > row.measurement.memory_before_load_mib
        assert row.measurement.runtime_facts["intra_op_threads"] == "1"
        assert row.environment.processor
        assert row.activations > 0
    assert store.rows(result.sweep.id) == rows
    (artifact,) = Path("out/artifacts").glob("*/*.pt")
    assert read_artifact(artifact).manifest.files[0].sha256 == rows[0].artifact_sha256


@pytest.mark.slow
def test_several_runtimes_and_models_stand_in_one_table() -> None:
    runs = (RunSpec("torch", 1, 1), RunSpec("onnxruntime", 1, 1))
    result, _ = run(sweep(*runs, models=(SMALL, rival("Net"))))
    assert [(row.stm, row.runtime) for row in result.rows] == [
        ("convnext", "torch"),
        ("convnext", "onnxruntime"),
        ("custom", "torch"),
        ("custom", "onnxruntime"),
    ]
    assert all(row.relative_l2_error is not None for row in result.rows)
    # The worker of onnxruntime never loads torch, which alone takes more than this.
    onnxruntime = result.rows[1].measurement
    assert onnxruntime is not None
    assert onnxruntime.memory_before_load_mib < 130


@pytest.mark.slow
def test_every_misdeed_costs_one_row() -> None:
    runs = [RunSpec("torch", batch, 1) for batch in (1, 5, 8, 2)]
    models = (rival("Misbehaved"),)
    result, _ = run(sweep(*runs, models=models, memory_limit_mib=4000, smaller_batch=True))
    failures = {row.batch: row.failure for row in result.rows}
    assert failures[1] is None
    assert failures[2] is None
    assert failures[5] == "worker died of SIGSEGV"
    assert "allocate" in (failures[8] or "")
    assert failures[4] is None, "half of the batch that ran out of memory"
    assert result.sweep.states == {DONE: 3, FAILED: 2}


def test_a_hang_costs_one_row() -> None:
    """In a sweep of its own: a limit that is short would end others on a busy machine, too."""
    hangs = sweep(
        RunSpec("torch", 6, 1), models=(rival("Misbehaved"),), row_timeout_s=3.0,
        sampling=replace(FAST, warmup_limit_s=0.1),
    )  # fmt: skip
    (row,) = run(hangs)[0].rows
    assert "took longer than" in (row.failure or "")


def test_requests_in_flight() -> None:
    runs = [RunSpec("torch", 1, 1, in_flight=n) for n in (1, 3)]
    one, three = run(sweep(*runs))[0].rows
    assert one.measurement is not None
    assert three.measurement is not None
    assert one.measurement.latency_with_copies_ms_p50 is not None
    assert three.measurement.latency_with_copies_ms_p50 is None
    assert three.measurement.samples >= 3 * FAST.min_samples


def _set_state(store: Store, position: int, state: str) -> None:
    """Behind the store's back: it keeps finished rows as they are."""
    with sqlite3.connect(store.name) as connection:
        connection.execute("UPDATE rows SET state = ? WHERE position = ?", (state, position))


def test_an_unfinished_sweep_is_resumed() -> None:
    result, _ = run(sweep(RunSpec("torch", 1, 1), RunSpec("torch", 2, 1)))
    store, name = Store(Path("out")), result.sweep.id
    _set_state(store, 1, MEASURING)  # killed between a process and the end of its row
    again: list[Row] = []
    progress = RecordedProgress()
    resumed = resume(ResumeSpec(trust=True), Place(Path("out")), progress, again.append)
    assert [row.batch for row in again] == [2]
    assert resumed.sweep.states == {DONE: 2}
    assert not any(step.startswith("exporting") for step in progress.steps)
    assert len(store.processes(name, 1)) == 1
    with pytest.raises(StmdeployError, match="has no unfinished sweep"):
        resume(ResumeSpec(trust=True), Place(Path("out")), progress, again.append)


def test_a_tampered_artifact_is_made_again_before_it_is_measured() -> None:
    run(sweep(RunSpec("torch", 1, 1)))
    store = Store(Path("out"))
    (artifact,) = Path("out/artifacts").glob("*/*.pt")
    good = artifact.read_bytes()
    artifact.write_bytes(good + b"x")
    _set_state(store, 0, FAILED)
    progress = RecordedProgress()
    resumed = resume(
        ResumeSpec(retry_failed=True, trust=True), Place(Path("out")), progress, lambda _: None
    )
    assert any(step.startswith("exporting") for step in progress.steps)
    assert resumed.sweep.states == {DONE: 1}
    assert artifact.read_bytes() == good


def test_a_worker_out_of_memory_costs_one_row() -> None:
    result, _ = run(sweep(RunSpec("torch", 500_000_000, 1), RunSpec("torch", 1, 1)))
    assert "MemoryError" in (result.rows[0].failure or "")
    assert result.rows[1].measurement is not None


@pytest.mark.slow
def test_an_export_that_fails_costs_its_rows() -> None:
    models = (rival("Fixed"), rival("Dies"), rival("Net"))
    runs = (RunSpec("onnxruntime", 1, 1), RunSpec("torch", 1, 1))
    rows = run(sweep(*runs, models=models))[0].rows
    assert rows[0].measurement is None
    assert "not exported" in (rows[0].failure or "")
    assert rows[0].artifact_sha256 is None
    assert rows[2].failure == "not exported: worker died of SIGSEGV"
    assert all(row.measurement is not None for row in rows[3:])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_costs_the_rows_that_do_not_fit(small_disk: Path) -> None:
    models = (rival("Large"), rival("Net"))
    rows = run(sweep(RunSpec("torch", 1, 1), models=models), small_disk / "out")[0].rows
    assert "no space left" in (rows[0].failure or "")
    assert rows[1].measurement is not None


def test_a_process_that_the_store_has_no_room_for_costs_its_row(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Store.add_processes

    def filling(self: Store, sweep: str, measured: Sequence[Measured]) -> bool:
        filler = small_disk / "filler"
        if measured[0].position == 0:
            with suppress(OSError), filler.open("wb", 0) as file:
                while file.write(b"0" * 4096):
                    pass
        try:
            return kept(self, sweep, measured)
        finally:
            filler.unlink(missing_ok=True)

    monkeypatch.setattr(Store, "add_processes", filling)
    runs = (RunSpec("torch", 1, 1), RunSpec("torch", 2, 1))
    rows = run(sweep(*runs), small_disk / "out")[0].rows
    assert "full" in (rows[0].failure or "")
    assert rows[1].measurement is not None


def test_what_lay_in_the_folder_stays(rivals: Path) -> None:
    (rivals / "out").mkdir()
    (rivals / "out" / "mine.txt").write_text("x")
    with pytest.raises(StmdeployError, match="cannot be imported"):
        run(sweep(RunSpec("torch", 1, 1), models=(ModelSpec("nosuch:x"),)))
    assert [path.name for path in (rivals / "out").rglob("*")] == ["mine.txt"]


def test_bad_input_is_found_before_anything_is_measured(rivals: Path) -> None:
    with pytest.raises(StmdeployError, match="no weights"):
        run(sweep(RunSpec("torch", 1, 1), models=(rival("Net"), rival("broken"))))
    assert not [path for path in (rivals / "out").rglob("*") if path.suffix == ".db"]


def test_a_form_that_a_target_lacks_costs_its_rows() -> None:
    (row,) = run(sweep(RunSpec("torch", 1, 1), models=(SMALL,), lowering="tokens"))[0].rows
    assert "has no form 'tokens' for torch" in (row.failure or "")


@pytest.mark.slow
def test_published_figures_stand_only_beside_what_they_were_published_of() -> None:
    official = ModelSpec("unified_convnext_micro")
    rows = run(sweep(RunSpec("torch", 1, 1), models=(official, SMALL)))[0].rows
    assert [row.published_top1_percent for row in rows] == [75.1, None]


def test_interpreters_are_checked_before_any_work(tmp_path: Path) -> None:
    here = sweep(RunSpec("torch", 1, 1, python=sys.executable))
    check_sweep(here)
    with pytest.raises(StmdeployError, match="cannot be started"):
        check_sweep(sweep(RunSpec("torch", 1, 1, python=str(tmp_path / "none"))))
    bare = tmp_path / "bare"
    bare.write_text(f"#!/bin/sh\nexec {sys.executable} -S -I -c 'import stmdeploy'\n")
    bare.chmod(0o755)
    with pytest.raises(StmdeployError, match="has no stmdeploy"):
        check_sweep(sweep(RunSpec("torch", 1, 1, python=str(bare))))


def test_rows_of_another_interpreter_say_so() -> None:
    (row,) = run(sweep(RunSpec("torch", 1, 1, python=sys.executable)))[0].rows
    assert row.python == sys.executable
    assert row.measurement is not None


def test_pruning_takes_the_artifacts_too() -> None:
    result, _ = run(sweep(RunSpec("torch", 1, 1)))
    store = Store(Path("out"))
    prune(store, result.sweep.id, samples_only=True)
    assert store.rows(result.sweep.id)
    prune(store, result.sweep.id, samples_only=False)
    assert store.sweeps() == ()
    assert not list(Path("out/artifacts").iterdir())


class Swaps(RecordedProgress):
    """Exchanges the artifact for another when a certain process of a row is about to begin."""

    def __init__(self, begins: str, change: Callable[[Path], None]) -> None:
        super().__init__()
        self._begins, self._change = begins, change

    def step(self, text: str) -> None:
        super().step(text)
        if text.endswith(self._begins):
            (artifact,) = Path("out/artifacts").glob("*/*.onnx")
            self._change(artifact)


def _one_byte(artifact: Path) -> None:
    content = bytearray(artifact.read_bytes())
    content[-1] ^= 1
    artifact.write_bytes(content)


def _another(artifact: Path) -> None:
    """With a manifest of its own, which is whole."""
    export_model(ExportSpec(replace(SMALL, seed=7), "onnx", artifact.parent), Silent())


@pytest.mark.slow
@pytest.mark.parametrize("change", [_one_byte, _another])
def test_an_artifact_that_is_exchanged_midway_is_not_measured(
    change: Callable[[Path], None],
) -> None:
    runs, sampling = (RunSpec("onnxruntime", 1, 1),), replace(FAST, processes=2)
    spec = sweep(*runs, models=(SMALL,), sampling=sampling)
    (row,) = profile(spec, Place(Path("out")), Swaps("process 2", change), lambda _: None).rows
    assert row.measurement is None
    assert "changed" in (row.failure or "") or "another artifact" in (row.failure or "")


@pytest.mark.slow
def test_a_row_that_is_gone_on_with_is_of_one_artifact() -> None:
    """What was measured of an artifact that is not there any more is measured again."""
    runs, sampling = (RunSpec("onnxruntime", 1, 1),), replace(FAST, processes=2)
    spec = sweep(*runs, models=(SMALL,), sampling=sampling)

    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(spec, Place(Path("out")), Swaps("process 2", interrupt), lambda _: None)
    store = Store(Path("out"))
    (info,) = store.sweeps()
    (old,) = store.processes(info.id, 0)
    measured = store.rows(info.id)[0].artifact_sha256
    with sqlite3.connect("out/results.db") as connection:  # as if of the artifact before
        connection.execute("UPDATE rows SET row = replace(row, ?, ?)", (measured, "0" * 64))
    progress = RecordedProgress()
    (row,) = resume(ResumeSpec(), Place(Path("out")), progress, lambda _: None).rows
    assert row.failure is None and row.artifact_sha256 == measured
    assert old not in store.processes(info.id, 0)
    assert any("measured again" in text for text in progress.warnings)
