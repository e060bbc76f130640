"""Prints rows as a table that fits the terminal.

Ids and headers are never cut, because half an id is useless. If the table is too wide, three steps are taken in this
order until it fits:

1. Long texts are folded onto several lines (`FOLDED`) or cut with an ellipsis (`CUT`), down to `LEAST_CHARS`.
2. The least important columns (`dropped_first`) are dropped.
3. The columns in `FOLDED_WORDS` are made narrower than `WORDS_CHARS`, down to `LEAST_OF_WORDS` characters.

A table that is still too wide is printed with that width, and the terminal wraps its lines.
"""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from muster.common.isolation_levels import LEVELS
from muster.common.terminal import one_line

CUT = frozenset({"objective", "seqs", "labels", "capabilities", "description", "body"})
"""Columns whose long values are cut and end in `…`."""
FOLDED_WORDS = frozenset({"name", "who", "what", "scopes", "stages", "package", "model"})
"""Columns that are folded onto several narrow lines, because a user may look for any word in them."""
FOLDED = FOLDED_WORDS | {"found", "remedy", "why", "reason", "summary", "text"}
"""Columns that are folded onto several lines, because their end matters as much as their beginning."""
LEAST_CHARS, LEAST_OF_WORDS = 20, 12
"""Smallest width in characters of a `CUT` or `FOLDED` column, and of a `FOLDED_WORDS` column."""
WORDS_CHARS = 40
"""A `FOLDED_WORDS` column up to this width is folded only after all `dropped_first` columns have been dropped."""
PIPE_COLUMNS = 200
"""Width of a table if stdout is no terminal; every table fits."""
_GAP = 2


def with_isolation(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with the isolation level added to the state if the row's attempt or sandbox has not the strongest.

    For a table without the column `isolation`, because the user must still see this warning.
    """
    level = row.get("isolation")
    return {**row, "state": f"{row['state']} ({level})" if level in LEVELS[1:] else row["state"]}


def terminal_columns() -> int:
    """Return the width of the output: COLUMNS, otherwise the terminal's width, otherwise `PIPE_COLUMNS`."""
    return shutil.get_terminal_size((PIPE_COLUMNS, 24)).columns


def shortened(text: str, max_chars: int) -> str:
    """Return the text cut to `max_chars` characters; a cut text ends in an ellipsis."""
    return text if len(text) <= max_chars else text[: max(max_chars - 1, 0)] + "…"


def print_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    dropped_first: Sequence[str] = (),
    *,
    usual: Mapping[str, int] | None = None,
    header: bool = True,
) -> list[str]:
    """Print a table to stdout and return the headers of the dropped columns.

    The columns in `dropped_first` are dropped, first to last, until the table fits the terminal. The columns in `usual`
    count with the width there, and not with that of their texts, so that a command always drops the same columns.
    """
    from rich.table import Table

    from muster.cli.console.table_console import TableConsole

    cells = {column: [_cell(row.get(column)) for row in rows] for column in columns}
    widths = {column: max(map(_width, [_header(column), *cells[column]])) for column in columns}
    room = terminal_columns()
    kept = _kept({column: (usual or {}).get(column, width) for column, width in widths.items()}, dropped_first, room)
    if "isolation" in columns and "isolation" not in kept:
        others = [column for column in columns if column != "isolation"]
        marked = [with_isolation(row) for row in rows]
        return [*print_table(marked, others, dropped_first, usual=usual, header=header), _header("isolation")]
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
    # If the console were narrower than the table, rich would cut all columns, including ids.
    TableConsole(width=max(room, needed), highlight=False, markup=False, emoji=False).print(table)
    return [_header(column) for column in columns if column not in kept]


def _kept(widths: Mapping[str, int], dropped_first: Sequence[str], room: int) -> set[str]:
    """Return the columns to print.

    Columns of `dropped_first` are dropped until the table fits. A dropped column for which there is still room is then
    added again.
    """
    kept = dict(widths)
    dropped: list[str] = []
    for column in dropped_first:
        if _least(kept, WORDS_CHARS) <= room:
            break
        if kept.pop(column, None) is not None:
            dropped.append(column)
    for column in reversed(dropped):
        wider = {**kept, column: widths[column]}
        if _least(wider, WORDS_CHARS) <= room:
            kept = wider
    return set(kept)


def _least(widths: Mapping[str, int], of_words: int = LEAST_OF_WORDS) -> int:
    """Return the width of the table in characters if each column has its smallest allowed width."""
    least = sum(_least_of(column, width, of_words) for column, width in widths.items())
    return least + _GAP * (len(widths) - 1)


def _least_of(column: str, width: int, of_words: int) -> int:
    if column in FOLDED_WORDS:
        return min(width, of_words)
    return min(width, LEAST_CHARS) if column in CUT | FOLDED else width


def _shares(widths: Mapping[str, int], dropped_first: int, of_words: int) -> dict[str, int]:
    """Return the width of each column that may be cut or folded.

    Each column gets its smallest width and an equal share of the unused width of the terminal (`dropped_first`). A
    column that needs less than its share leaves the rest to wider columns, so the loop goes from the narrowest column
    to the widest.
    """
    limits: dict[str, int] = {}
    flexible = sorted((width, column) for column, width in widths.items() if column in CUT | FOLDED)
    for done, (width, column) in enumerate(flexible):
        least = _least_of(column, width, of_words)
        limits[column] = min(width, least + dropped_first // (len(flexible) - done))
        dropped_first -= limits[column] - least
    return limits


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _header(column: str) -> str:
    return column.replace("_", " ").upper()


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else one_line(str(value))
