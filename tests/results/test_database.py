"""A server that several share: merges without loss, plain errors, and no word of a password."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.cli.main import main
from stmdeploy.results.database import server_url
from stmdeploy.results.state import DONE, FAILED, MEASURING, PLANNED, Measured
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.sweep import SweepSpec
from tests.fakes import evaluation
from tests.results import postgres
from tests.results.conftest import Backend

MakeRow = Callable[..., Row]
MakeProcess = Callable[..., ProcessRun]


def _filled(folder: Path, make_row: MakeRow, make_process: MakeProcess) -> Store:
    """A SQLite store with a line of every kind."""
    folder.mkdir()
    store = Store(folder, create=True)
    for sweep in ("s1", "s2"):
        spec = SweepSpec(
            (ModelSpec("unified_dcn_v3_micro"),), (RunSpec("torch", 1, 1),), lowering="%"
        ).to_json()
        store.add_sweep(sweep, spec, [(str(i), f"spec {i}") for i in range(500)])
        for i in range(450):
            process = make_process(samples_ms=(0.1 * i + 0.1, 1e-9, 3.3333333333333335))
            state = MEASURING if i % 7 else DONE
            assert store.add_processes(
                sweep, [Measured(i, 0, (process,), make_row(batch=i + 1), state)]
            )
        store.save_row(
            sweep, 499, make_row(measurement=None, failure="Speicher voll \u2603"), FAILED
        )
    store.add_evaluation(evaluation(make_row(), 80.0, "2026-01-01"))
    return store


def _everything(store: Store) -> list[object]:
    sweeps = store.sweeps()
    found: list[object] = [sweeps, store.evaluations()]
    for info in sweeps:
        found += [store.asked(info.id), store.planned(info.id), store.rows(info.id)]
        found += [store.processes(info.id, i) for i in (0, 1, 7, 449, 499)]
    return found


@pytest.mark.slow
def test_a_merge_from_a_file_loses_nothing(
    tmp_path: Path, postgres_url: str, make_row: MakeRow, make_process: MakeProcess
) -> None:
    """From a file to the server and back into another file, everything is as it was."""
    file = _filled(tmp_path / "file", make_row, make_process)
    server = Backend(tmp_path, postgres_url).new("server")
    assert server.merge(file) == (2, 900)
    assert server.merge(file) == (0, 0)
    assert _everything(server) == _everything(file)
    (tmp_path / "back").mkdir()
    back = Store(tmp_path / "back", create=True)
    assert back.merge(server) == (2, 900)
    assert _everything(back) == _everything(file)


def _merge(folder: Path, url: str) -> None:
    Store(folder, url=url, create=True).merge(Store(folder))


@pytest.mark.slow
def test_eight_merge_into_an_empty_server_at_once(
    tmp_path: Path, postgres_url: str, make_row: MakeRow, make_process: MakeProcess
) -> None:
    """They make the tables together, too; nobody gets in another's way."""
    url = postgres.database(postgres_url, "eight")
    for i in range(8):
        folder = tmp_path / str(i)
        folder.mkdir()
        own = Store(folder, create=True)
        for sweep in ("shared", f"own-{i}"):
            own.add_sweep(sweep, "{}", [(str(j), "") for j in range(50)])
            for j in range(50):
                own.add_processes(
                    sweep, [Measured(j, 0, (make_process(),), make_row(batch=j + 1), DONE)]
                )
        own.close()
    spawn = multiprocessing.get_context("spawn")
    jobs = [spawn.Process(target=_merge, args=(tmp_path / str(i), url)) for i in range(8)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * 8
    server = Store(tmp_path, url=url)
    assert len(server.sweeps()) == 9
    assert all(info.states == {DONE: 50} for info in server.sweeps())


def test_the_command_line_over_a_server(
    tmp_path: Path,
    postgres_url: str,
    make_row: MakeRow,
    make_process: MakeProcess,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A merge by the flag, a look by the variable; the password is nowhere in what is said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").mkdir()
    file = Store(tmp_path / "file", create=True)
    file.add_sweep("s1", "{}", [("a", "A")])
    file.add_processes("s1", [Measured(0, 0, (make_process(),), make_row(), DONE)])
    url = postgres.database(postgres_url, "shared")
    assert main(["results", "list", "--store", url]) == 2
    assert "no results in postgresql://127.0.0.1" in capsys.readouterr().err
    assert main(["results", "merge", "file", "--store", url]) == 0
    monkeypatch.setenv("STMDEPLOY_STORE", url)
    assert main(["results", "list"]) == 0
    assert main(["report"]) == 0
    assert main(["results", "merge", url]) == 2
    said = "".join(capsys.readouterr())
    assert "s1" in said and "is this store itself" in said
    assert "owner" not in said and "word/with" not in said and "word%2Fwith" not in said
    assert main(["results", "--help"]) == 0
    assert "word" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        ("wrong-password", "password", 2),
        ("wrong-port", "cannot be reached", 5),
        ("wrong-database", "does not exist", 2),
    ],
)
def test_a_server_that_is_not_there_is_one_line(
    postgres_url: str, tmp_path: Path, change: str, message: str, code: int
) -> None:
    whole = server_url(postgres_url)
    changed = {
        "wrong-password": whole.set(password="secret-guess"),
        "wrong-port": whole.set(port=1),
        "wrong-database": whole.set(database="nowhere"),
    }[change]
    with pytest.raises(StmdeployError, match=message) as caught:
        Store(tmp_path, url=changed.render_as_string(hide_password=False))
    assert caught.value.code == code
    said = str(caught.value)
    assert "secret-guess" not in said and "word/with" not in said and "\n" not in said


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:secret@host/db",
        "me:secret@host",
        "sqlite:///x.db",
        "postgresql://me:secret/db",
        "postgresql://me@host:secret/db",
    ],
)
def test_other_databases_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StmdeployError, match=r"give postgresql\+psycopg://HOST/DATABASE") as caught:
        server_url(url)
    assert "secret" not in str(caught.value)


def test_the_password_of_libpq_is_enough(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual variables of PostgreSQL's clients work, so that no URL need hold a password."""
    bare = server_url(postgres_url).set(password=None).render_as_string(hide_password=False)
    monkeypatch.setenv("PGPASSWORD", postgres.PASSWORD)
    assert Store(tmp_path, url=bare, create=True).sweeps() == ()


@pytest.fixture(scope="module")
def own_server() -> Iterator[postgres.Server]:
    """One that may be stopped."""
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres.server() as made:
        yield made


def _begun(server: postgres.Server, name: str, folder: Path) -> Store:
    store = Store(folder, url=postgres.database(server.url, name), create=True)
    store.add_sweep("s", "{}", [(str(i), "") for i in range(5)])
    return store


@pytest.mark.slow
def test_a_server_that_stops_midway_loses_and_doubles_nothing(
    own_server: postgres.Server, tmp_path: Path, make_row: MakeRow, make_process: MakeProcess
) -> None:
    store = _begun(own_server, "stops", tmp_path)
    assert store.add_processes("s", [Measured(0, 0, (make_process(),), make_row(), DONE)])
    own_server.stop()
    with pytest.raises(StmdeployError, match=r"cannot be reached|terminating|closed") as caught:
        store.add_processes("s", [Measured(1, 0, (make_process(),), make_row(), DONE)])
    assert caught.value.code == 5 and "\n" not in str(caught.value)
    own_server.start()
    assert store.add_processes("s", [Measured(1, 0, (make_process(),), make_row(), DONE)])
    assert not store.add_processes("s", [Measured(0, 0, (make_process(),), make_row(), DONE)])
    assert [row.state for row in store.planned("s")] == [DONE, DONE, PLANNED, PLANNED, PLANNED]
    assert len(store.processes("s", 1)) == 1


@pytest.mark.slow
def test_a_server_that_is_frozen_midway_loses_and_doubles_nothing(
    own_server: postgres.Server, tmp_path: Path, make_row: MakeRow, make_process: MakeProcess
) -> None:
    store = _begun(own_server, "freezes", tmp_path)
    store.planned("s")  # a connection that is there when it freezes
    frozen = own_server.processes()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            measured = [Measured(0, 0, (make_process(),), make_row(), DONE)]
            adding = pool.submit(store.add_processes, "s", measured)
            time.sleep(1)
            assert not adding.done(), "it waits"
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
            assert adding.result(timeout=600)
    finally:
        for pid in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert len(store.processes("s", 0)) == 1
