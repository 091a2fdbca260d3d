"""What files name is not done: each attack, through the command line that fell for it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from stmdeploy.check.bundle import DOCUMENT, Baseline, write_baseline
from stmdeploy.cli.main import main
from stmdeploy.plugins.trust import needs_trust, wishes_of_sweep
from stmdeploy.results.state import PLANNED
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import file_info, manifest_path, read_artifact
from stmdeploy.schema.manifest import Manifest
from stmdeploy.spec.export import CalibrationSpec, EngineSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSettings, RunSpec
from stmdeploy.spec.sweep import RowSpec, SweepSpec
from tests.hostile.good import MODEL, SWEEP_ID, Good

SWEEP = SweepSpec((MODEL,), (RunSpec("onnxruntime", 1, 1),))
#: A module that leaves a mark when it is imported, and a program that does when it is started.
MARK = "from pathlib import Path\nPath('ran').touch()\nraise SystemExit\n"


@pytest.fixture(autouse=True)
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with what an attacker has put there; it must leave no mark."""
    (tmp_path / "evil.py").write_text(MARK)
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\ntouch ran\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command ends with; nothing has run."""
    assert main(list(words)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert not Path("ran").exists()
    assert "--trust" in said[-1]
    return said[-1]


def baseline_of(good: Good, spec: SweepSpec, folder: Path) -> Path:
    """The good baseline, of another sweep, with seals that are right."""
    shutil.copytree(good.baseline, folder)
    document = Baseline.model_validate_json((folder / DOCUMENT).read_text())
    (folder / DOCUMENT).unlink()
    rows = spec.rows()
    write_baseline(
        document.model_copy(
            update={
                "sweep_spec": spec.to_json(),
                "rows": tuple(
                    old.model_copy(update={"spec": row.to_json()})
                    for old, row in zip(document.rows[: len(rows)], rows, strict=True)
                ),
            }
        ),
        folder,
    )
    return folder


RUN = SWEEP.runs[0]
EVIL_MODEL = replace(MODEL, name="evil:net")
ATTACKS = {
    "an interpreter": (replace(SWEEP, runs=(replace(RUN, python="./python"),)),
                       "wants to start a program: ./python"),
    "a module": (replace(SWEEP, models=(EVIL_MODEL,)), "wants to run Python code: evil:net"),
    "an address": (replace(SWEEP, models=(replace(MODEL, checkpoint="http://x.invalid/w.pth"),)),
                   "wants to fetch a checkpoint: http://x.invalid/w.pth"),
    "official weights": (replace(SWEEP, models=(replace(MODEL, checkpoint="official"),)),
                         "wants to fetch a checkpoint: official"),
    "a file": (replace(SWEEP, models=(replace(MODEL, checkpoint="/etc/passwd"),)),
               "wants to read a checkpoint: /etc/passwd"),
    "a folder": (replace(SWEEP, calibration=CalibrationSpec(Path("/home"))),
                 "wants to read images of a folder: /home"),
    "a cache": (replace(SWEEP, engine=EngineSpec(timing_cache=Path("/tmp/c"))),
                "wants to read and write a file: /tmp/c"),
    "a cache of a run": (
        replace(SWEEP, runs=(replace(RUN, settings=RunSettings(
            engine=EngineSpec(timing_cache=Path("/tmp/c")))),)),
        "wants to read and write a file: /tmp/c"),
}  # fmt: skip


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_a_baseline(
    good: Good, attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, says = ATTACKS[attack]
    path = baseline_of(good, spec, tmp_path / "baseline")
    assert says in refused(capsys, "check", str(path))


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_a_store(attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, says = ATTACKS[attack]
    store = Store(tmp_path, create=True)
    store.add_sweep("evil", spec.to_json(), [(row.key, row.to_json()) for row in spec.rows()])
    store.close()
    assert says in refused(capsys, "profile", "--resume", "--out", str(tmp_path))
    (tmp_path / "merged").mkdir()
    assert main(["results", "merge", str(tmp_path), "--out", str(tmp_path / "merged")]) == 0
    assert says in refused(capsys, "profile", "--resume", "--out", str(tmp_path / "merged"))


def test_a_row_of_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the sweep itself names nothing."""
    row = RowSpec(EVIL_MODEL, replace(RUN, python="./python"))
    store = Store(tmp_path, create=True)
    store.add_sweep("evil", SWEEP.to_json(), [(row.key, row.to_json())])
    assert store.planned("evil")[0].state == PLANNED
    store.close()
    said = refused(capsys, "profile", "--resume", "--out", str(tmp_path))
    assert "wants to run Python code: evil:net" in said


def test_an_artifact_of_a_store_that_lies_elsewhere_is_made_again(good: Good) -> None:
    """A stored path leads anywhere; artifacts are those in the store's own folder."""
    from stmdeploy.sweeps.prepared import PreparedSweep
    from tests.fakes import RecordedProgress

    store = Store(good.store)
    prepared = PreparedSweep(store, SWEEP_ID, RecordedProgress())
    assert not prepared._intact(store.prepared(SWEEP_ID)[0])
    store.close()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('python = ["./python"]', "wants to start a program: ./python; "),
        ('model = "evil:net"', "wants to run Python code: evil:net; "),
        ('checkpoint = "http://x.invalid/w.pth"\nstm = "dcn"', "wants to read or fetch"),
        ('calibration = "/home"', "wants to read images of a folder: /home"),
        ('timing_cache_file = "/tmp/c"', "wants to read and write a file: /tmp/c"),
    ],
)
@pytest.mark.parametrize("words", [["profile"], ["profile", "--dry-run"], ["baseline", "create"]])
def test_a_sweep_file(
    line: str, says: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.toml").write_text(line)
    said = refused(capsys, *words, "--sweep", "sweep.toml")
    assert says in said
    assert "name it by --" in said


def test_what_the_command_line_names_itself_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.toml").write_text('model = "evil:net"\nbatch = 3')
    (tmp_path / "good_net.py").write_text("raise AssertionError")
    words = ["profile", "--sweep", "sweep.toml", "--model", "good_net:net", "--dry-run", "--json"]
    assert main(words) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["model"], row["batch"]) == ("good_net:net", 3)
    words = ["profile", "--sweep", "sweep.toml", "--trust", "--dry-run", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["model"] == "evil:net"
    assert not Path("ran").exists(), "a plan runs nothing even so"


def as_artifact(good: Good, path: Path, content: bytes, **fields: object) -> Path:
    """A file with a manifest that describes it, sealed as anybody can."""
    path.write_bytes(content)
    manifest = read_artifact(good.artifact).manifest
    manifest = manifest.model_copy(update={"files": (file_info(path),), **fields}).sealed()
    manifest_path(path).write_text(manifest.model_dump_json())
    return path


def test_weights_whose_manifest_names_a_module(
    good: Good, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = read_artifact(good.artifact).manifest.model.model_copy(update={"name": "evil:net"})
    path = as_artifact(good, tmp_path / "a.pt", b"x", target="torch", model=model)
    said = refused(capsys, "evaluate", str(path), "--data", str(good.images))
    assert "wants to run Python code: evil:net" in said


def test_a_program_under_another_name(
    good: Good, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever evaluates an ONNX file has not asked for compiled code to be run."""
    path = as_artifact(good, tmp_path / "a.onnx", good.artifact.read_bytes(), target="aotinductor")
    said = refused(capsys, "evaluate", str(path), "--data", str(good.images))
    assert "wants to run compiled code" in said


def test_compiled_code_in_a_baseline_and_in_a_folder_of_candidates(
    good: Good, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = replace(SWEEP, runs=(replace(RUN, runtime="aotinductor"),))
    path = baseline_of(good, spec, tmp_path / "baseline")
    assert "wants to run compiled code" in refused(capsys, "check", str(path), str(good.artifact))


def test_a_plain_sweep_wishes_nothing() -> None:
    assert list(wishes_of_sweep(SWEEP)) == []
    assert not needs_trust(SWEEP)
    assert needs_trust(replace(SWEEP, runs=(replace(RUN, runtime="aotinductor"),)))
    assert needs_trust(replace(SWEEP, models=(EVIL_MODEL,)))
    named = replace(SWEEP, models=(ModelSpec("timm:resnet18"),))
    assert [wish.value for wish in wishes_of_sweep(named)] == ["timm:resnet18"]


def test_seals_are_no_signatures(good: Good, tmp_path: Path) -> None:
    """Anybody can seal; SECURITY.md says so."""
    path = as_artifact(good, tmp_path / "a.onnx", good.artifact.read_bytes(), target="mine")
    assert read_artifact(path).manifest.target == "mine"
    assert isinstance(read_artifact(path).manifest, Manifest)
