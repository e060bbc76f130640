"""Rows as a table for a person: ids and headers stay whole; what is long is folded or cut, what is least goes."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from muster.common.terminal import one_line

CUT = frozenset({"objective", "seqs", "labels", "capabilities", "description", "body"})
"""Columns that may end in `…`."""
FOLDED_WORDS = frozenset({"name", "who", "what", "scopes", "stages"})
"""Columns that take several narrow lines: each word of theirs may be what was asked for."""
FOLDED = FOLDED_WORDS | {"found", "remedy", "why", "reason", "summary", "text"}
"""Columns that take several lines: what they say is read to its end."""
LEAST_CHARS, LEAST_OF_WORDS = 20, 12
WORDS_CHARS = 40
"""So wide they are whole, as ids are; other columns give way before they are folded."""
PIPE_COLUMNS = 200
"""A pipe has no width; so much is enough for every column."""
_GAP = 2


def with_isolation(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table whose state says that there is no isolation, whichever columns there is room for."""
    return {**row, "state": f"{row['state']} (plain)" if row.get("isolation") == "plain" else row["state"]}


def terminal_columns() -> int:
    """The width of the terminal; COLUMNS wins, and a pipe is wide."""
    return shutil.get_terminal_size((PIPE_COLUMNS, 24)).columns


def shortened(text: str, most: int) -> str:
    """At most `most` characters, the last one an ellipsis where some are missing."""
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…"


def print_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], spare: Sequence[str] = (), *, header: bool = True
) -> list[str]:
    """On stdout. Of `columns`, those in `spare` are left out, first to last, as far as the width demands.

    Returns the headers of what was left out.
    """
    from rich.table import Table

    from muster.cli.console.table_console import TableConsole

    cells = {column: [_cell(row.get(column)) for row in rows] for column in columns}
    widths = {column: max(map(_width, [_header(column), *cells[column]])) for column in columns}
    room = terminal_columns()
    kept = _kept(widths, spare, room)
    widths = {column: width for column, width in widths.items() if column in kept}
    fits = (most for most in (WORDS_CHARS, LEAST_CHARS) if _least(widths, most) <= room)
    of_words = next(fits, LEAST_OF_WORDS)
    needed = _least(widths, of_words)
    limits = _shares(widths, max(room - needed, 0), of_words)

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for column in widths:
        folded = column in FOLDED
        overflow = "fold" if folded else "ellipsis"
        table.add_column(_header(column), overflow=overflow, no_wrap=not folded, max_width=limits.get(column))
    for at in range(len(rows)):
        table.add_row(*(cells[column][at] for column in widths))
    # What does not fit even so is the terminal's to wrap: an id that is cut is of no use.
    TableConsole(width=max(room, needed), highlight=False, markup=False, emoji=False).print(table)
    return [_header(column) for column in columns if column not in kept]


def _kept(widths: Mapping[str, int], spare: Sequence[str], room: int) -> set[str]:
    """The columns there is room for. One that gave way in vain comes back, if nobody becomes narrow by it."""
    kept = dict(widths)
    left_out: list[str] = []
    for column in spare:
        if _least(kept, WORDS_CHARS) <= room:
            break
        if kept.pop(column, None) is not None:
            left_out.append(column)
    for column in reversed(left_out):
        wider = {**kept, column: widths[column]}
        if _least(wider, WORDS_CHARS) <= room:
            kept = wider
    return set(kept)


def _least(widths: Mapping[str, int], of_words: int = LEAST_OF_WORDS) -> int:
    """The fewest columns of characters in which nothing is cut that must not be."""
    least = sum(_least_of(column, width, of_words) for column, width in widths.items())
    return least + _GAP * (len(widths) - 1)


def _least_of(column: str, width: int, of_words: int) -> int:
    if column in FOLDED_WORDS:
        return min(width, of_words)
    return min(width, LEAST_CHARS) if column in CUT | FOLDED else width


def _shares(widths: Mapping[str, int], spare: int, of_words: int) -> dict[str, int]:
    """How wide each column that may be cut or folded becomes: the short ones first, the rest get what is left."""
    limits: dict[str, int] = {}
    flexible = sorted((width, column) for column, width in widths.items() if column in CUT | FOLDED)
    for done, (width, column) in enumerate(flexible):
        least = _least_of(column, width, of_words)
        limits[column] = min(width, least + spare // (len(flexible) - done))
        spare -= limits[column] - least
    return limits


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _header(column: str) -> str:
    return column.replace("_", " ").upper()


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else one_line(str(value))
