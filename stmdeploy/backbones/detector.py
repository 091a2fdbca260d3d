"""What of a checkpoint belongs to a detection backbone: detectors hold more, classifiers less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from stmdeploy.files.reading import printable

#: Prefixes of a detector's keys, and of the norms that only a detection backbone has.
_BACKBONE, _NECK, _LAST_NORM = "backbone.", "neck.", "out_norm_"
#: Parts that only a classification backbone has.
_CLASSIFIER = frozenset({"stage_norms", "conv_head", "head"})
#: How many parts a note names before it counts the rest.
_NAMED_PARTS = 8


def is_of_detector(state: Mapping[str, Tensor]) -> bool:
    """Whether a state_dict is of a detector, or of a detection backbone."""
    return any(key.startswith((_BACKBONE, _LAST_NORM)) for key in state)


def of_detection(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """What to load into a detection backbone, or into one with its neck.

    Args:
        state: the state_dict of a detector, a detection backbone or a classification backbone. The
            last has no norms for the maps, which then begin as training does.
        wanted: that of the module as it is made.

    Returns:
        The state_dict to load, under the module's keys, and notes on what was left out of it, and
        what was not in it.
    """
    with_neck = any(key.startswith(_NECK) for key in wanted)
    whole = any(key.startswith(_BACKBONE) for key in state)
    # Under the keys of a detector, whatever it is.
    named = {key if whole else _BACKBONE + key: value for key, value in state.items()}
    left_out = Counter(filter(None, (_part_left_out(key, with_neck) for key in named)))
    found = {
        key.removeprefix("" if with_neck else _BACKBONE): value
        for key, value in named.items()
        if not _part_left_out(key, with_neck)
    }
    fresh = _fresh(found, wanted) if any("stages." in key for key in found) else {}
    notes = []
    if left_out:
        counts = [f"{printable(part)} ({count})" for part, count in left_out.items()]
        notes.append(f"left out, with the number of tensors: {_listed(counts)}")
    if fresh:
        parts = dict.fromkeys(key.removeprefix(_BACKBONE).split(".")[0] for key in fresh)
        notes.append(f"not in it, so not trained: {_listed(list(parts))}")
    return found | fresh, notes


def _part_left_out(key: str, with_neck: bool) -> str:
    """The part of a detector or of a classification backbone that a key belongs to, if the module
    has no such part; else empty."""
    first, _, rest = key.partition(".")
    if first == "backbone":
        part = rest.split(".")[0]
        return part if part in _CLASSIFIER else ""
    return "" if with_neck and first == "neck" else first


def _fresh(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parts of the module of which a checkpoint has nothing: norms as training begins with them,
    and the neck as it is made."""
    fresh = {}
    for part in (_LAST_NORM, _NECK):
        if any(part in key for key in found):
            continue  # what is missing of it is an error
        for key, made in wanted.items():
            if part in key:
                begun = torch.ones_like if key.endswith("weight") else torch.zeros_like
                fresh[key] = begun(made) if part == _LAST_NORM else made
    return fresh


def _listed(words: list[str]) -> str:
    more = f" and {len(words) - _NAMED_PARTS} more" if len(words) > _NAMED_PARTS else ""
    return ", ".join(words[:_NAMED_PARTS]) + more
