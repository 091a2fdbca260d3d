"""What a low precision must keep of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from stmdeploy.errors import StmdeployError


@dataclass(frozen=True)
class FidelityLimits:
    """Limits over photographs that had no part in any choice; None asks nothing.

    Attributes:
        max_error: highest relative L2 error of the logits against those in float32.
        min_agreement_percent: least share of images with the same top-1 class as in float32.
        max_top1_drop_percent: most that top-1 may fall by, in percentage points.
    """

    max_error: float | None = None
    min_agreement_percent: float | None = None
    max_top1_drop_percent: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value, flag = getattr(self, field.name), _flag(field.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise StmdeployError(f"{flag} {value:g} is not above 0", "give a positive number")
        for name in ("min_agreement_percent", "max_top1_drop_percent"):
            value = getattr(self, name)
            if value is not None and value >= 100:
                hint = "give a number below 100: no number of images shows that none differs"
                raise StmdeployError(f"{_flag(name)} {value:g} cannot be promised", hint)

    @property
    def any(self) -> bool:
        """Whether anything is asked."""
        return any(getattr(self, field.name) is not None for field in fields(self))


def _flag(name: str) -> str:
    return "--" + name.removesuffix("_percent").replace("_", "-")
