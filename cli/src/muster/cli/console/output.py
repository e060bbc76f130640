"""Prints the output of commands, and defines their exit codes.

Data goes to stdout in the format of `-o`; messages to the user go to stderr. Texts that agents wrote may contain
control characters that a terminal would obey, so every function here removes or escapes control characters. Only
`write_raw` keeps them, and only when stdout is not a terminal.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Literal, NoReturn

import click
import msgspec

from muster.common.clock import utc_now
from muster.common.terminal import printable, printable_lines

OutputFormat = Literal["table", "json", "jsonl", "yaml", "name"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = ("table", "json", "jsonl", "yaml", "name")
"""The output formats that `-o` accepts."""
Row = Mapping[str, Any]
"""One row of a list: field names and values as in the API's JSON."""
_TIME_SUFFIXES = ("_at", "_since", "_seen")


class Exit(IntEnum):
    """The exit codes of all commands. A code has the same meaning in every command; README.md explains each code."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    CONFLICT = 5
    TASK_FAILED = 6
    UNREACHABLE = 7
    TIMEOUT = 8
    INTERRUPTED = 130
    UNREAD = 141


OF_STATUS: Mapping[int, Exit] = {
    401: Exit.AUTH,
    403: Exit.AUTH,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    410: Exit.CONFLICT,
    412: Exit.CONFLICT,
    502: Exit.UNREACHABLE,
    503: Exit.UNREACHABLE,
    504: Exit.TIMEOUT,
}
"""Exit codes by HTTP status of the API's response; see `api_call_error.exit_code` for the other statuses."""


def output_option[F: Callable[..., Any]](command: F) -> F:
    """Add the option `-o table|json|jsonl|yaml|name`; the command receives its value as `form`."""
    formats, text = click.Choice(OUTPUT_FORMATS), f"Print as {one_of(OUTPUT_FORMATS)}."
    return click.option(
        "-o", "--output", "form", type=formats, metavar="FORM", default="table", show_default=True, help=text
    )(command)


def one_of(words: Sequence[str]) -> str:
    """Join words as in `a, b or c`, for the help text of an option with these values."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def say(text: str) -> None:
    """Print a message to the user on stderr, with control characters removed."""
    click.echo(printable_lines(text), err=True)


def say_wrapped(text: str) -> None:
    """Print a paragraph to the user on stderr, as `say`. On a terminal, lines end between words."""
    from muster.cli.console.table import terminal_columns
    from muster.cli.console.wrapping import wrapped_line

    say("\n".join(wrapped_line(text, "", terminal_columns() if sys.stderr.isatty() else None)))


def fail(text: str, code: Exit = Exit.FAILURE) -> NoReturn:
    """Print an error to the user on stderr and exit with `code`."""
    say(f"muster: {text}")
    sys.exit(code)


def write_raw(text: str) -> None:
    """Write an agent's text to stdout; remove its control characters if stdout is a terminal."""
    sys.stdout.write(printable_lines(text) if sys.stdout.isatty() else text)


def json_text(body: bytes) -> str:
    """Return `body` as JSON text with the same value, but escape each character that a terminal might obey.

    JSON allows such characters only within strings, where an escape has the same meaning. Line ends are kept, because
    indented JSON has them only between strings.
    """
    return "\n".join(line if line.isprintable() else _escape_line(line) for line in body.decode().split("\n"))


def _escape_line(line: str) -> str:
    return "".join(char if char.isprintable() else _escape_units(char.encode("utf-16-be").hex()) for char in line)


def _escape_units(units: str) -> str:
    """Return UTF-16 code units (four hex digits each) as JSON escapes; a character outside the BMP has two units."""
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """The table columns for one kind of rows, and the field that `-o name` prints."""

    columns: Sequence[str]
    """Fields that are columns of the table, left to right."""
    dropped_first: Sequence[str] = ()
    """Columns that a narrow terminal does not show; the first one is dropped first."""
    usual: Mapping[str, int] = field(default_factory=dict[str, int])
    """Widths by which a narrow terminal chooses the columns, so that the choice does not depend on the rows."""
    hidden_if_empty: Sequence[str] = ()
    """Columns that are not shown if they are empty in all rows."""
    name: str = "name"
    """The field that identifies a row."""
    cells: Callable[[Row], Row] = dict
    """Converts a row to the values that the table shows."""


def emit(value: object, form: OutputFormat = "json") -> None:
    """Print a value to stdout as YAML, as JSON on one line (`jsonl`) or, for any other format, as indented JSON."""
    body = msgspec.json.encode(value)
    match form:
        case "yaml":
            import yaml

            # Without `allow_unicode`, YAML escapes every character outside ASCII and thereby all control characters.
            plain = body.decode().isprintable()
            yaml.safe_dump(msgspec.json.decode(body), sys.stdout, sort_keys=False, allow_unicode=plain)
        case "jsonl":
            sys.stdout.write(json_text(body) + "\n")
        case _:
            sys.stdout.write(json_text(msgspec.json.format(body)) + "\n")


def emit_rows(
    rows: Sequence[Row], form: OutputFormat, layout: TableLayout, *, empty: str = "", header: bool = True
) -> None:
    """Print rows to stdout: all fields as JSON or YAML, the layout's columns as a table, or only the names.

    If there are no rows, the message `empty` is printed on stderr instead of a table.
    """
    match form:
        case "json" | "yaml":
            emit(rows, form)
        case "jsonl":
            for row in rows:
                emit(row, form)
        case "name":
            for row in rows:
                sys.stdout.write(printable(str(row[layout.name])) + "\n")
        case "table":
            if not rows and empty:
                say(empty)
                return
            from muster.cli.console.table import print_table, shortened, terminal_columns

            cells = [layout.cells(row) for row in rows]
            shown = [
                name
                for name in layout.columns
                if name not in layout.hidden_if_empty or any(row.get(name) for row in cells)
            ]
            dropped = print_table(cells, shown, layout.dropped_first, usual=layout.usual, header=header)
            if dropped and header:
                say(shortened(f"-o jsonl also shows {', '.join(dropped)}", terminal_columns()))


def emit_row(row: Row, form: OutputFormat, layout: TableLayout) -> None:
    """Print one row in the format `form`; JSON and YAML show an object, not a list with one object."""
    if form in ("json", "yaml"):
        emit(row, form)
    else:
        emit_rows([row], form, layout)


def describe(fields: Row) -> None:
    """Print the fields of one object to stdout, one field per line; omit unset fields and format times with `when`."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        if value is None or value in ("", {}, []):
            continue
        if isinstance(value, str):
            text = when(value) if name.endswith(_TIME_SUFFIXES) else value
        else:
            text = msgspec.json.encode(value).decode()
        for at, line in enumerate(text.splitlines()):
            sys.stdout.write(f"{'' if at else name:<{width}}  {printable(line)}".rstrip() + "\n")


def when(text: str) -> str:
    """Format an RFC 3339 time as `2026-11-21 08:05:59 UTC (3 s ago)`."""
    at, now = datetime.fromisoformat(text).astimezone(UTC), utc_now()
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" + ("" if at > now else f" ({ago(at, now)})")


def ago(since: datetime, now: datetime) -> str:
    """Return the time since `since`, such as `12 s ago`, in the largest unit (d, h, min, s) that gives at least 1."""
    return f"{duration(since, now)} ago"


def ahead(until: datetime, now: datetime) -> str:
    """Return the time from `now` to `until`, such as `in 30 d`; for a past `until`, such as `12 s ago`."""
    return f"in {duration(now, until)}" if until > now else ago(until, now)


def duration(since: datetime, until: datetime) -> str:
    """Return a time span, such as `12 s`, in the largest unit (d, h, min, s) that gives at least 1."""
    seconds = max(int((until - since).total_seconds()), 0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
