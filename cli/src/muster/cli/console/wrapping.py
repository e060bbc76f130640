"""Wraps a line of text to the width of a terminal."""

import textwrap

LEAST_COLUMNS = 20
"""Columns that remain for the text on a very narrow terminal, which then wraps the lines itself."""

_CONTINUED = " \\"


def wrapped_line(text: str, indent: str, columns: int | None, *, first: str = "") -> list[str]:
    """Return `text` on lines of at most `columns` characters; None wraps nothing.

    The first line begins with `first`, and every other line with `indent`. A word that is wider than a line is divided.
    """
    if columns is None or len(first) + len(text) <= columns:
        return [f"{first}{text}".rstrip()]
    lines = textwrap.wrap(
        text,
        max(columns, len(indent) + LEAST_COLUMNS),
        initial_indent=first,
        subsequent_indent=indent,
        replace_whitespace=False,
        break_on_hyphens=False,
    )
    return lines or [first.rstrip()]


def wrapped_command(text: str, indent: str, columns: int | None, *, first: str = "") -> list[str]:
    """Return a shell command as `wrapped_line` does, with a backslash at the end of each line that another one follows.

    So the command can be copied from several lines.
    """
    *lines, last = wrapped_line(text, indent, None if columns is None else columns - len(_CONTINUED), first=first)
    return [*(line + _CONTINUED for line in lines), last]
