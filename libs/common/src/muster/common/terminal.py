"""Makes text safe for a terminal. No other module does this.

Agents choose most of the text that people see: event kinds, errors, diffs, output. A terminal obeys control characters
(ESC and the C1 controls move the cursor, set the title or send input). Bidirectional overrides change the order of the
shown text. `str.isprintable` is false for all of these characters (Unicode's categories Cc, Cf, Cs, Co, Cn, Zl and Zp),
and for every space except the usual one.
"""

_KEPT_IN_LINES = frozenset("\n\t")


def printable(text: str) -> str:
    """Return `text` on one line, with a space instead of each character that a terminal might obey."""
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def printable_lines(text: str) -> str:
    """Return `text` with a space instead of each character that a terminal might obey, except newlines and tabs."""
    return "".join(one if one.isprintable() or one in _KEPT_IN_LINES else " " for one in text)


def one_line(text: str) -> str:
    """Return `text` on one line, with single spaces between its words."""
    return printable(" ".join(text.split()))
