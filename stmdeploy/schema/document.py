"""What every stored document is built from: its base, its seal, and the kinds of its fields."""

from __future__ import annotations

import hashlib
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import (
    parse_document,
    parse_json,
    plain_name,
    plain_path,
    plain_text,
    printable,
)
from stmdeploy.spec.model import MAX_SIDE_PX

#: A file name without a folder.
PlainName = Annotated[str, AfterValidator(plain_name)]
#: A relative path below the folder of the document that holds it.
PlainPath = Annotated[str, AfterValidator(plain_path)]
#: A short text that is safe to print: no control characters.
PlainText = Annotated[str, AfterValidator(plain_text)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]


class Document(BaseModel):
    """Base of everything that is stored: immutable, and without unknown fields.

    Validators are built when they are first used, because a worker reads few kinds of documents.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Sealed(Document):
    """A document that carries a hash over everything else in it."""

    schema_version: int = Field(description="Version of the schema; no other version is read.")
    kind: str = Field(description="Kind of document, such as stmdeploy-artifact.")
    seal: str = Field("", description="SHA-256 over all other fields, in hex; empty if not sealed.")

    @classmethod
    def parse_sealed(cls, content: bytes | str, where: str, hint: str) -> Self:
        """Reads a document of this kind and version.

        Args:
            where: the document as errors name it.

        Raises:
            StmdeployError: with `hint`: another kind of document, another schema version, or it
                is damaged or was edited.
        """
        table = parse_json(content, where, hint)
        kind, known = (cls.model_fields[name].default for name in ("kind", "schema_version"))
        if not isinstance(table, dict) or table.get("kind") != kind:
            raise StmdeployError(f"{where} is no {kind}", hint)
        if (version := table.get("schema_version")) != known:
            shown = printable(str(version))[:20]
            raise StmdeployError(f"{where} has schema {shown}, this stmdeploy reads {known}", hint)
        document = parse_document(cls.model_validate_json, content, where, hint)
        if document.seal != document._digest():
            raise StmdeployError(f"{where} was edited: its seal does not match", hint)
        return document

    def sealed(self) -> Self:
        """A copy that carries its seal."""
        return self.model_copy(update={"seal": self._digest()})

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()


Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, le=1e30)]
#: A duration that is never 0, since it is divided by and its logarithm taken.
Ms = Annotated[float, Field(ge=1e-9, le=1e12)]
#: An end of a duration's interval, which may lie far beyond anything measured.
MsEnd = Annotated[float, Field(gt=0, le=1e30)]
Percent = Annotated[float, Field(ge=0, le=100)]
