"""How the documentation is built: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from docs.generate import write_reference
from stmdeploy import __version__

project = "stmdeploy"
author = "the authors of stmdeploy"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"stmdeploy {__version__}"
html_theme_options = {"source_edit_link": ""}
html_show_sourcelink = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Hosts that answer no robot, or not always; the addresses were looked at by hand.
linkcheck_ignore = [r"https://github\.com/OWNER/.*"]
linkcheck_anchors = False

write_reference(Path(__file__).parent / "reference")
