"""Which rows are alive at once: as many as fit into memory, and always the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Rows that are alive at once, at most: every one holds a process.
_MOST_ALIVE = 24
#: Share of the free memory that all of them may take.
_MEMORY_SHARE = 0.6


def blocks(
    rows: Sequence[int],
    reference: int | None,
    memory_mib: Mapping[int, float],
    free_mib: float,
) -> list[list[int]]:
    """Cuts rows into blocks that fit into memory; every block has the reference in it.

    Args:
        rows: what is to be measured.
        reference: the row that all others are compared with, measured or not; None for none.
        memory_mib: of every row, estimated.
        free_mib: memory of the host that is free.

    Returns:
        Blocks of at least one of `rows` each.
    """
    limit_mib = _MEMORY_SHARE * free_mib
    shared = [] if reference is None else [reference]
    others = [row for row in rows if row != reference]
    found: list[list[int]] = []
    for row in others:
        block = found[-1] if found else None
        if (
            block is None
            or len(block) >= _MOST_ALIVE
            or (sum(memory_mib[one] for one in block) + memory_mib[row] > limit_mib)
        ):
            found.append([*shared, row])
        else:
            block.append(row)
    return found or [[row] for row in rows]
