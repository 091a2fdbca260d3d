"""One way for each kind of output to hold text that comes from elsewhere.

Names, reasons and notes may come from a store, a baseline or a manifest of somebody else's. A
terminal gets `one_line` of them (`stmdeploy.reading`), HTML is escaped by its templates, and CSV
by `stmdeploy.results.frame`.
"""

from __future__ import annotations

import re

from stmdeploy.reading import one_line

#: What Markdown gives a meaning to; an underscore has one only at the edge of a word.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|#~]|(?<![^\W_])_|_(?![^\W_])")
_LATEX = str.maketrans(
    {
        **{sign: "\\" + sign for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)
#: How a line begins, and what stands anywhere in one, that GitHub's runners take for a command.
_COMMAND, _OLD_COMMAND = "::", "##["


def markdown_text(text: str) -> str:
    """For a cell or a paragraph of Markdown: signs are shown, and mean nothing."""
    return _MARKDOWN.sub(lambda found: "\\" + found.group(), one_line(text))


def latex_text(text: str) -> str:
    """For LaTeX."""
    return one_line(text).translate(_LATEX)


def log_line(text: str) -> str:
    """For a line that a CI system reads too: no command of a runner's."""
    text = text.replace(_OLD_COMMAND, "## [")
    return f"'{text}" if text.lstrip().startswith(_COMMAND) else text
