"""Deploy and profile the vision backbones of the unified spatial-token-mixer architecture."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stmdeploy.errors import StmdeployError

if TYPE_CHECKING:
    from stmdeploy.api.results import Results, load_results
    from stmdeploy.api.working import export, profile
    from stmdeploy.backbones import create_backbone, list_backbones
    from stmdeploy.schema.artifact import Artifact

__version__ = "0.2.0"

__all__ = [
    "Artifact",
    "Results",
    "StmdeployError",
    "__version__",
    "create_backbone",
    "export",
    "list_backbones",
    "load_results",
    "profile",
]

#: Where a name is; what it needs is imported when it is first asked for.
_PLACES = {
    "Artifact": "stmdeploy.schema.artifact",
    "Results": "stmdeploy.api.results",
    "create_backbone": "stmdeploy.backbones",
    "export": "stmdeploy.api.working",
    "list_backbones": "stmdeploy.backbones",
    "load_results": "stmdeploy.api.results",
    "profile": "stmdeploy.api.working",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
