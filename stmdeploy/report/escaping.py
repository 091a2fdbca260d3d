"""Escaping of text that comes from elsewhere, for each kind of output.

Names, reasons and notes may come from somebody else's store, baseline or manifest. A terminal gets
`one_line` of them (`stmdeploy.files.reading`); HTML is escaped by its templates, CSV by
`stmdeploy.results.frame`.
"""

from __future__ import annotations

import re

from stmdeploy.files.reading import one_line

#: Signs with a meaning in Markdown; an underscore has one only at the edge of a word.
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
    """Text for a cell or a paragraph of Markdown, every sign in it shown as it is."""
    return _MARKDOWN.sub(lambda found: "\\" + found.group(), one_line(text))


def latex_text(text: str) -> str:
    """Text for LaTeX, on one line, every sign in it shown as it is."""
    return one_line(text).translate(_LATEX)


def log_line(text: str) -> str:
    """A line for a log, in which a CI system that reads it finds no command."""
    text = text.replace(_OLD_COMMAND, "## [")
    return f"'{text}" if text.lstrip().startswith(_COMMAND) else text
