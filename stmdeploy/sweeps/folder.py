"""The folders beside a store: the artifacts of its sweeps, and LoadGen's logs."""

from __future__ import annotations

import shutil
from pathlib import Path

from stmdeploy.files.writing import remove_leftovers
from stmdeploy.results.store import Store

_ARTIFACTS, _LOGS = "artifacts", "loadgen-logs"


def artifacts_of(store: Store, sweep: str) -> Path:
    """The folder of a sweep's artifacts."""
    return store.folder / _ARTIFACTS / sweep


def logs_of(store: Store, sweep: str) -> Path:
    """The folder of a sweep's LoadGen logs, with a folder for every row."""
    return store.folder / _LOGS / sweep


def remove_partial(folder: Path) -> None:
    """Removes files that killed exports left among the artifacts of a store."""
    artifacts = folder / _ARTIFACTS
    if artifacts.is_dir():
        for one in artifacts.iterdir():
            remove_leftovers(one)


def prune(store: Store, sweep: str, *, samples_only: bool) -> None:
    """Deletes a sweep with its artifacts and logs, or only its raw samples."""
    if samples_only:
        store.drop_processes(sweep)
        return
    store.remove_sweep(sweep)
    for folder in (artifacts_of(store, sweep), logs_of(store, sweep)):
        shutil.rmtree(folder, ignore_errors=True)
