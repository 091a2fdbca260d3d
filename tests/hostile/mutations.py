"""Hostile forms of good documents: what an attacker, a bad disk or a version makes of them."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

#: What stands where something sensible stood.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.0, -0.5, 1e308, 5e-324,
    "", " ", "a" * 300, "a" * 70_000, "../../outside", "/etc/passwd", "..", ".", "a/b", "a\\b",
    "nul\0nul", "line\n::error::line", "\x1b[31mred\x1b[0m", "\u202eright to left", "\ud800",
    "=HYPERLINK(0)", "<script>alert(1)</script>", "a|b", "%s%n", "{0.__class__}", "http://x.invalid",
    "package.module:callable", "os:system", "timm:resnet18", "inf", "nan", "1e400", "\uff11\uff12",
    [], {}, [[]], [None], {"": None}, {"__class__": {}}, [0] * 2000, {"a": {"b": {"c": {}}}},
)  # fmt: skip
DEPTHS = (50, 500, 100_000)


@dataclass(frozen=True)
class Change:
    """One change of a document, at the place that a number picks."""

    place: int
    kind: str
    value: Any = None


changes = st.one_of(
    st.builds(Change, st.integers(0, 10**6), st.just("put"), st.sampled_from(VALUES)),
    st.builds(
        Change,
        st.integers(0, 10**6),
        st.just("put"),
        st.one_of(st.integers(), st.floats(), st.text(max_size=20), st.booleans()),
    ),
    st.builds(Change, st.integers(0, 10**6), st.sampled_from(["drop", "twice", "rename", "swap"])),
    st.builds(Change, st.integers(0, 10**6), st.just("nest"), st.sampled_from(DEPTHS)),
)


def places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a document, the document itself first."""
    found = [at]
    if isinstance(document, dict):
        for key in document:
            found += places(document[key], (*at, key))
    elif isinstance(document, list):
        for i, value in enumerate(document):
            found += places(value, (*at, i))
    return found


class Nest:
    """Lists in lists, too deep for Python to build; written as text."""

    def __init__(self, depth: int) -> None:
        self.text = "[" * depth + "]" * depth


def changed(document: Any, some: list[Change]) -> Any:
    """A document after some changes."""
    document = copy.deepcopy(document)
    for change in some:
        ways = places(document)
        *way, last = ways[change.place % len(ways)] or (None,)
        if last is None:
            document = _value(document, change)
            continue
        holder = document
        for step in way:
            holder = holder[step]
        _apply(holder, last, change)
    return document


def _value(old: Any, change: Change) -> Any:
    if change.kind == "nest":
        return Nest(change.value)
    # A copy: later changes reach into it, and must not reach the one that all documents get.
    return copy.deepcopy(change.value) if change.kind == "put" else old


def _apply(holder: Any, key: Any, change: Change) -> None:
    if change.kind == "drop":
        del holder[key]
    elif change.kind == "twice" and isinstance(holder, list):
        holder.append(holder[key])
    elif change.kind == "rename" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif change.kind == "swap":
        other = next(iter(holder)) if isinstance(holder, dict) else 0
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = _value(holder[key], change)


def as_json(document: Any) -> bytes:
    """JSON of a changed document; what JSON cannot say is said all the same."""
    nests: list[str] = []

    def stand_in(value: Any) -> Any:
        nests.append(value.text)
        return f"NEST{len(nests) - 1}END"

    text = json.dumps(document, default=stand_in)
    for i, nest in enumerate(nests):
        text = text.replace(f'"NEST{i}END"', nest)
    return text.encode("utf-8", "surrogatepass")


def as_toml(document: Any) -> bytes:
    """TOML of a changed document, good or not."""
    if not isinstance(document, dict):
        return as_json(document)
    return "\n".join(f"{_key(key)} = {_toml(value)}" for key, value in document.items()).encode(
        "utf-8", "surrogatepass"
    )


def _key(key: Any) -> str:
    return json.dumps(str(key))


def _toml(value: Any) -> str:
    if isinstance(value, Nest):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if value is None:
        return '""'
    return json.dumps(value, ensure_ascii=False).replace("Infinity", "inf").replace("NaN", "nan")


@dataclass(frozen=True)
class Damage:
    """One change of bytes."""

    place: int
    kind: str
    content: bytes = b""


damages = st.one_of(
    st.builds(
        Damage,
        st.integers(0, 10**7),
        st.sampled_from(["put", "insert"]),
        st.one_of(
            st.binary(min_size=1, max_size=12),
            st.sampled_from([b"\0", b"\xff" * 8, b"../../x\0", b"99999999999", b"[" * 5000]),
        ),
    ),
    st.builds(Damage, st.integers(0, 10**7), st.sampled_from(["cut", "drop"])),
)


def damaged(content: bytes, some: list[Damage]) -> bytes:
    """Bytes after some changes."""
    for damage in some:
        at = damage.place % (len(content) + 1)
        end = at + len(damage.content)
        if damage.kind == "put":
            content = content[:at] + damage.content + content[end:]
        elif damage.kind == "insert":
            content = content[:at] + damage.content + content[at:]
        elif damage.kind == "cut":
            content = content[:at]
        else:
            content = content[:at] + content[at + 1 + damage.place % 64 :]
    return content
