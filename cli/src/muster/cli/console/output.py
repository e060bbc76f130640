"""What commands print: data on stdout in the form asked for, everything said to a person on stderr, and exit codes."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Literal, NoReturn

import click
import msgspec

from muster.common.clock import utc_now
from muster.common.terminal import printable, printable_lines

Form = Literal["table", "json", "jsonl", "yaml", "name"]
FORMS: tuple[Form, ...] = ("table", "json", "jsonl", "yaml", "name")
Row = Mapping[str, Any]
_TIMES = ("_at", "_since", "_seen")


class Exit(IntEnum):
    """Exit codes, the same for every command."""

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
"""What an HTTP status of the API means here; any other error is a failure."""


def output_option[F: Callable[..., Any]](command: F) -> F:
    """`-o table|json|jsonl|yaml|name`, passed as `form`."""
    kinds, text = click.Choice(FORMS), f"{one_of(FORMS)}."
    return click.option(
        "-o", "--output", "form", type=kinds, metavar="FORM", default="table", show_default=True, help=text
    )(command)


def one_of(words: Sequence[str]) -> str:
    """For the help of an option that takes one of many."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def say(text: str) -> None:
    """To the person, on stderr. Takes plain text: a control character in it does not reach the terminal."""
    click.echo(printable_lines(text), err=True)


def fail(text: str, code: Exit = Exit.FAILURE) -> NoReturn:
    """Say why, and end with `code`."""
    say(f"muster: {text}")
    sys.exit(code)


def write_raw(text: str) -> None:
    """Write what an agent made to stdout: unchanged for a program, cleaned on a terminal."""
    sys.stdout.write(printable_lines(text) if sys.stdout.isatty() else text)


def json_text(body: bytes) -> str:
    """Return JSON in which every character that a terminal might obey is escaped; it decodes to the same value.

    Such characters stand only within strings; the line ends of indented JSON stand only between them.
    """
    return "\n".join(line if line.isprintable() else _escaped(line) for line in body.decode().split("\n"))


def _escaped(line: str) -> str:
    return "".join(one if one.isprintable() else _escape(one.encode("utf-16-be").hex()) for one in line)


def _escape(units: str) -> str:
    """As JSON writes it: four digits a unit, and two units where one cannot hold the character."""
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How rows of one kind look as a table, and which of their fields names them.

    A narrow table goes without the columns in `spare`, first to last, and any table without those in `rare` that are
    empty. `cells` makes what a person reads of a row.
    """

    columns: Sequence[str]
    spare: Sequence[str] = ()
    rare: Sequence[str] = ()
    name: str = "name"
    cells: Callable[[Row], Row] = dict


def emit(value: object, form: Form = "json") -> None:
    """One value on stdout: as JSON on lines, on one line, or as YAML."""
    body = msgspec.json.encode(value)
    match form:
        case "yaml":
            import yaml

            plain = body.decode().isprintable()  # else YAML's own escapes, which leave nothing but ASCII
            yaml.safe_dump(msgspec.json.decode(body), sys.stdout, sort_keys=False, allow_unicode=plain)
        case "jsonl":
            sys.stdout.write(json_text(body) + "\n")
        case _:
            sys.stdout.write(json_text(msgspec.json.format(body)) + "\n")


def emit_rows(rows: Sequence[Row], form: Form, shape: Shape, *, empty: str = "", header: bool = True) -> None:
    """Rows on stdout: all fields as JSON or YAML, the shape's columns as a table, or the names alone.

    Instead of a table without rows the person is told `empty`.
    """
    match form:
        case "json" | "yaml":
            emit(rows, form)
        case "jsonl":
            for row in rows:
                emit(row, form)
        case "name":
            for row in rows:
                sys.stdout.write(printable(str(row[shape.name])) + "\n")
        case "table":
            if not rows and empty:
                say(empty)
                return
            from muster.cli.console.table import print_table, shortened, terminal_columns

            cells = [shape.cells(row) for row in rows]
            shown = [name for name in shape.columns if name not in shape.rare or any(row.get(name) for row in cells)]
            left_out = print_table(cells, shown, shape.spare, header=header)
            if left_out and header:
                say(shortened(f"-o jsonl shows also {', '.join(left_out)}", terminal_columns()))


def emit_row(row: Row, form: Form, shape: Shape) -> None:
    """One row: as `emit_rows` does it, but by itself where it is JSON or YAML."""
    if form in ("json", "yaml"):
        emit(row, form)
    else:
        emit_rows([row], form, shape)


def describe(fields: Row) -> None:
    """What is known of one thing, a field a line; what is unset is left out, a time is worded for people."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        if value is None or value in ("", {}, []):
            continue
        if isinstance(value, str):
            text = when(value) if name.endswith(_TIMES) else value
        else:
            text = msgspec.json.encode(value).decode()
        for at, line in enumerate(text.splitlines()):
            sys.stdout.write(f"{'' if at else name:<{width}}  {printable(line)}".rstrip() + "\n")


def when(text: str) -> str:
    """`2026-11-21 08:05:59 UTC (3 s ago)`, from a time as the API writes it."""
    at, now = datetime.fromisoformat(text).astimezone(UTC), utc_now()
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" + ("" if at > now else f" ({ago(at, now)})")


def ago(since: datetime, now: datetime) -> str:
    """`12 s ago`: in the largest unit that makes at least one."""
    return f"{_distance(since, now)} ago"


def ahead(until: datetime, now: datetime) -> str:
    """`in 30 d`, or `12 s ago` where it is past."""
    return f"in {_distance(now, until)}" if until > now else ago(until, now)


def _distance(since: datetime, until: datetime) -> str:
    seconds = max(int((until - since).total_seconds()), 0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
