"""What attacks begin with: good documents of every kind, made once for a test session."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from stmdeploy.backbones.source import build_module
from stmdeploy.check.bundle import (
    Baseline,
    BaselineRow,
    MachineKey,
    add_object,
    row_names,
    write_baseline,
)
from stmdeploy.results.database import FILE_NAME
from stmdeploy.results.state import DONE, Measured
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import manifest_path, read_artifact
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Prepared, PreparedArtifact, Row
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.sweep import SweepSpec
from tests.sharing import SharedArtifacts

MODEL = ModelSpec("unified_convnext_nano", (32, 32), 10)
#: Finished, so that going on with it has nothing to do.
SWEEP = SweepSpec(
    (MODEL,), (RunSpec("onnxruntime", 1, 1), RunSpec("onnxruntime", 2, 1)), explain=False
)
SWEEP_ID = "20260101-000000-abcd"


@dataclass(frozen=True)
class Good:
    """Where the good ones lie; `store` and `baseline` are folders."""

    artifact: Path
    store: Path
    baseline: Path
    archive: Path
    checkpoint: Path
    images: Path


@pytest.fixture(scope="session")
def good(
    tmp_path_factory: pytest.TempPathFactory,
    artifacts: SharedArtifacts,
    make_row: Callable[..., Row],
    make_process: Callable[..., ProcessRun],
) -> Good:
    """One of every kind; what they say was measured was made up."""
    folder = tmp_path_factory.mktemp("good")
    made = Good(
        artifact=_copied(artifacts.exported(MODEL, "onnx").path, folder / "artifacts"),
        store=folder / "store",
        baseline=folder / "baseline",
        archive=folder / "baseline.tar.gz",
        checkpoint=folder / "weights.pth",
        images=folder / "images",
    )
    rows = [make_row(model=MODEL.name, batch=batch) for batch in (1, 2)]
    _fill_store(made, rows, make_process())
    _fill_baseline(made, rows)
    torch.save({"model": build_module(MODEL).state_dict()}, made.checkpoint)
    for label in range(3):
        (made.images / f"class{label}").mkdir(parents=True)
        for suffix in (".png", ".jpg", ".gif", ".bmp", ".tiff", ".webp", ".ppm"):
            image = Image.linear_gradient("L").resize((40, 36)).convert("RGB")
            image.save(made.images / f"class{label}" / f"image{suffix}")
    return made


def _copied(path: Path, folder: Path) -> Path:
    folder.mkdir()
    for one in (path, manifest_path(path)):
        shutil.copy(one, folder / one.name)
    return folder / path.name


def _fill_store(made: Good, rows: list[Row], process: ProcessRun) -> None:
    made.store.mkdir()
    store = Store(made.store, create=True)
    planned = [(row.key, row.to_json()) for row in SWEEP.rows()]
    store.add_sweep(SWEEP_ID, SWEEP.to_json(), planned)
    artifact = read_artifact(made.artifact)
    store.save_prepared(
        SWEEP_ID,
        0,
        Prepared(
            model=artifact.manifest.model, published=None, parameters=1, macs=1,
            matmul_conv_macs=1, activations=1, uncounted_operators={},
            artifacts=(PreparedArtifact(
                target="onnx", precision="fp32", path=made.artifact, seal=artifact.manifest.seal,
                sha256=artifact.manifest.files[0].sha256, mib=1.0, lowering="tokens",
            ),),
        ),
    )  # fmt: skip
    for position, row in enumerate(rows):
        for number in range(3):
            store.add_processes(SWEEP_ID, [Measured(position, number, (process,), row, DONE)])
    store.close()


def _fill_baseline(made: Good, rows: list[Row]) -> None:
    made.baseline.mkdir()
    artifact = add_object(read_artifact(made.artifact), made.baseline)
    shutil.copy(made.store / FILE_NAME, made.baseline / FILE_NAME)
    specs = SWEEP.rows()
    write_baseline(
        Baseline(
            created_utc="2026-01-01T00:00:00+00:00",
            sweep=SWEEP_ID,
            sweep_spec=SWEEP.to_json(),
            machine=MachineKey(
                processor="Test CPU", cores=2, gpu="", driver="", power_limit_w=None
            ),
            environment=rows[0].environment,
            rows=tuple(
                BaselineRow(
                    name=name, spec=spec.to_json(), artifact=artifact, workload=artifact,
                    runtime_version="1.0", row=row, calibrated=(0.1, 0.2), outputs=((0.0,) * 10,),
                )
                for name, spec, row in zip(row_names(specs), specs, rows, strict=True)
            ),
            files=(),
        ),
        made.baseline,
    )  # fmt: skip
    with tarfile.open(made.archive, "w:gz") as archive:
        archive.add(made.baseline, arcname=".")
