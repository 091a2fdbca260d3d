"""Where rows are kept: ``results.json`` in a folder, whole after every row."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from stmdeploy.errors import StmdeployError
from stmdeploy.files import write_atomically
from stmdeploy.results.row import RESULTS_SCHEMA_VERSION, Results, Row

FILE_NAME = "results.json"


class ResultsFolder:
    """Collects the rows of one profile; every `append` leaves a complete file behind."""

    def __init__(self, folder: Path) -> None:
        """Claims the folder.

        Raises:
            StmdeployError: it already holds results, perhaps of a profile still running.
        """
        self.path = folder / FILE_NAME
        self.results = Results()
        try:
            self.path.touch(exist_ok=False)
        except FileExistsError as error:
            raise StmdeployError(
                f"{folder} already holds results", "choose another --out, or remove them"
            ) from error
        try:
            self._write()
        except BaseException:
            self.path.unlink()
            raise

    def append(self, row: Row) -> None:
        """Adds a row and writes the document.

        Raises:
            StmdeployError: the folder cannot be written to, or the disk is full.
        """
        self.results = Results(rows=(*self.results.rows, row))
        self._write()

    def _write(self) -> None:
        write_atomically(self.path, self.results.model_dump_json(indent=1).encode())


def read_results(path: Path) -> Results:
    """Reads a results document, given the file or the folder that holds it.

    Raises:
        StmdeployError: no such file, not a results document, or of another schema.
    """
    file = path / FILE_NAME if path.is_dir() else path
    hint = "give the folder or results.json that `stmdeploy profile` wrote"
    try:
        content = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise StmdeployError(f"{file}: {(error.strerror or '').lower()}", hint) from error
    except (ValueError, RecursionError) as error:
        raise StmdeployError(f"{file} is not JSON: {error}", hint) from error
    if not isinstance(content, dict) or content.get("kind") != "stmdeploy-results":
        raise StmdeployError(f"{file} holds no stmdeploy results", hint)
    if content.get("schema_version") != RESULTS_SCHEMA_VERSION:
        raise StmdeployError(
            f"{file} has schema {content.get('schema_version')}, "
            f"this stmdeploy reads {RESULTS_SCHEMA_VERSION}",
            "measure again, or use the stmdeploy that wrote it",
        )
    try:
        return Results.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StmdeployError(f"{file} is damaged at {where}: {first['msg']}", hint) from error
