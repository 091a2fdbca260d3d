"""Deploy and profile the vision backbones of the unified spatial-token-mixer architecture."""

from stmdeploy.backbones import create_backbone, list_backbones
from stmdeploy.errors import StmdeployError

__version__ = "0.1.0"

__all__ = ["StmdeployError", "__version__", "create_backbone", "list_backbones"]
