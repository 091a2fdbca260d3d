"""One way for each kind of output to hold text that comes from elsewhere.

Names, reasons and notes may come from a store, a baseline or a manifest of somebody else's. A
terminal gets `one_line` of them (`stmdeploy.files.reading`), HTML is escaped by its templates, and
CSV by `stmdeploy.results.frame`.
"""

from __future__ import annotations

import re

from stmdeploy.files.reading import one_line

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
    """Text for a cell or a paragraph of Markdown, in which signs are shown and mean nothing."""
    return _MARKDOWN.sub(lambda found: "\\" + found.group(), one_line(text))


def latex_text(text: str) -> str:
    """Text for LaTeX, on one line, in which signs are shown and mean nothing."""
    return one_line(text).translate(_LATEX)


def log_line(text: str) -> str:
    """A line for a log that a CI system reads too, in which it finds no command."""
    text = text.replace(_OLD_COMMAND, "## [")
    return f"'{text}" if text.lstrip().startswith(_COMMAND) else text
