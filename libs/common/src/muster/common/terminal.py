"""Makes text safe for a terminal. No other module does this.

Agents choose most of the text that people see: event kinds, errors, diffs, output. A terminal obeys control characters
(ESC and the C1 controls move the cursor, set the title or send input). Bidirectional overrides change the order of the
shown text. `str.isprintable` is false for all of these characters (Unicode's categories Cc, Cf, Cs, Co, Cn, Zl and Zp),
and for every space except the usual one.
"""

import re

_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_KEPT_IN_LINES = frozenset("\n\t")


def without_colours(text: str) -> str:
    """Return the lines of a command's output as a terminal would have left them, but without colours.

    Complete escape sequences are removed, and of a line that was overwritten (by a progress bar, with carriage
    returns) only the last content is kept. Other control characters remain: `printable_lines` replaces them.
    """
    lines = _ESCAPE_SEQUENCE.sub("", text).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def printable(text: str) -> str:
    """Return `text` on one line, with a space instead of each character that a terminal might obey."""
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def printable_lines(text: str) -> str:
    """Return `text` with a space instead of each character that a terminal might obey, except newlines and tabs."""
    return "".join(one if one.isprintable() or one in _KEPT_IN_LINES else " " for one in text)


def one_line(text: str) -> str:
    """Return `text` on one line, with single spaces between its words."""
    return printable(" ".join(text.split()))
