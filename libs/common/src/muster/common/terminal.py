"""Makes text safe for a terminal; the only place that does.

Agents choose most of what is shown to people: event kinds, errors, diffs, output. A terminal obeys the control
characters in it (ESC and the C1 controls begin commands that move the cursor, set the title or answer as if typed), and
shows text with bidirectional overrides in another order than a program reads it. `str.isprintable` is false for all of
these (Unicode's categories Cc, Cf, Cs, Co, Cn, Zl and Zp), and for every space but the usual one.
"""

_KEPT_IN_LINES = frozenset("\n\t")


def printable(text: str) -> str:
    """Return `text` on one line, with a space in place of each character that a terminal might obey."""
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def printable_lines(text: str) -> str:
    """Return `text` as `printable` does, but keep its newlines and tabs."""
    return "".join(one if one.isprintable() or one in _KEPT_IN_LINES else " " for one in text)


def one_line(text: str) -> str:
    """Return `text` on one line, with single spaces between its words."""
    return printable(" ".join(text.split()))
