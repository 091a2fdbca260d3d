"""Tables that benchmarks measured and the documentation shows.

A file in ``results/evidence`` holds one, with its command, machine, date and version, and a digest
of the code that it is about. `make figures` writes it into the page that names it
(``<!-- table: NAME -->``), and says there if that code has changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from stmdeploy import __version__
from stmdeploy.files.writing import write_atomically
from stmdeploy.schema.document import Document

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results" / "evidence"


class Evidence(Document):
    """A table, and where it comes from."""

    command: str = Field(description="Command that measures it again.")
    machine: str = Field(description="Machine that measured it.")
    date: str = Field(description="Day on which it was measured, ISO 8601.")
    version: str = Field(description="Version of stmdeploy.")
    remark: str = Field("", description="What else must be known to read it.")
    code: tuple[str, ...] = Field(description="Files and folders that it is about.")
    digest: str = Field(description="Digest of these when it was measured.")
    columns: tuple[str, ...] = Field(description="Headers; the first column names the rows.")
    rows: tuple[tuple[str, ...], ...] = Field(description="Cells, as they are shown.")

    @property
    def stale(self) -> bool:
        """Whether the code that it is about has changed since."""
        return self.digest != digest_of(self.code)

    def text(self) -> str:
        """As a file: JSON, a line a row."""
        head = json.dumps(self.model_dump(exclude={"rows"}), indent=1, ensure_ascii=False)
        rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in self.rows)
        return f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'

    def markdown(self) -> str:
        """The table, and below it where it comes from."""
        told = [f"`{self.command}`", self.machine, self.date, f"stmdeploy {self.version}"]
        told += [self.remark] if self.remark else []
        told += ["the code that it is about has changed since"] if self.stale else []
        return f"{markdown_table(self.columns, self.rows)}\n\n*Measured: {'; '.join(told)}.*"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown: the first column to the left, the others to the right."""
    rule = [":---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rule, *rows))


def digest_of(code: Sequence[str], root: Path = ROOT) -> str:
    """A digest of files, and of all Python and TOML files in folders; of their paths, too."""
    found = hashlib.sha256()
    for name in code:
        place = root / name
        files = [place] if place.is_file() else sorted(filter(Path.is_file, place.rglob("*")))
        for file in files:
            if file.suffix in (".py", ".toml"):
                found.update(f"{file.relative_to(root)} ".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def read(name: str) -> Evidence:
    """A table of the repository."""
    return Evidence.model_validate_json((FOLDER / f"{name}.json").read_text("utf-8"))


def saving(parser: argparse.ArgumentParser) -> None:
    """Adds the option that keeps what a benchmark measures."""
    told = "keep the table in results/evidence, from where `make figures` takes it"
    parser.add_argument("--save", action="store_true", help=told)


@contextmanager
def table(
    name: str, command: str, code: Sequence[str], columns: Sequence[str], remark: str, *, save: bool
) -> Iterator[Callable[..., None]]:
    """Gives a function that adds a row by its cells; at the end prints the table, and keeps it if
    asked to. The arguments are the fields of `Evidence`."""
    rows: list[tuple[str, ...]] = []

    def add(*cells: str) -> None:
        rows.append(cells)
        print(" | ".join(cells), file=sys.stderr, flush=True)

    yield add
    found = evidence_of(command, code, columns, rows, remark)
    print(found.markdown())
    if save:
        keep(name, found)


def evidence_of(
    command: str, code: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[str]],
    remark: str = "",
) -> Evidence:  # fmt: skip
    """A table that was measured here and now."""
    return Evidence(
        command=command,
        machine=this_machine(),
        date=today(),
        version=__version__,
        remark=remark,
        code=tuple(code),
        digest=digest_of(code),
        columns=tuple(columns),
        rows=tuple(map(tuple, rows)),
    )


def keep(name: str, evidence: Evidence) -> None:
    """Writes a table into the repository."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_atomically(FOLDER / f"{name}.json", evidence.text().encode())


def this_machine() -> str:
    """Processor and cores of this machine, in words."""
    from stmdeploy.hardware.environment import environment

    here = environment()
    virtual = ", virtual machine" if here.virtual_machine else ""
    return f"{here.processor}, {here.cores} cores{virtual}"


def today() -> str:
    """The day, ISO 8601."""
    return datetime.now(UTC).date().isoformat()
