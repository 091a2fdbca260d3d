"""What a command must know of a file from outside before it begins."""

from __future__ import annotations

from pydantic import Field

from stmdeploy.schema.document import Document
from stmdeploy.schema.manifest import ModelInfo


class FileFacts(Document):
    """How a file can be run."""

    ways: tuple[tuple[str, str], ...] = Field(
        description="Runtimes with the precisions they may compute it in, the usual one first."
    )
    batch: int | None = Field(description="Only batch that it takes; None if it takes any.")
    model: ModelInfo = Field(description="What it is, as a model.")
