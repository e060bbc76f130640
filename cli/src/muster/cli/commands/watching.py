"""Implements `--watch`: reads rows every 2 s and prints the rows again when they have changed."""

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Never

import click

from muster.cli.console.output import OutputFormat, Row, TableLayout, emit_rows, say
from muster.client.errors import ApiCallError

EVERY_S = 2.0
"""Seconds between two reads. Polling is used because the API has no feed of list changes."""
LONGEST_AWAY_S = 60.0
"""Seconds for which requests to an unreachable API are repeated."""
_CLEAR = "\x1b[2J\x1b[H"
_LINES_BESIDE_ROWS = 4
"""Lines of the screen that show no row: header, names of dropped columns, number of hidden rows, and cursor."""


def watch_option[F: Callable[..., Any]](command: F) -> F:
    """Add the option `--watch`; the command receives its value as `watch`."""
    text = "Refresh until Ctrl-C. If stdout is not a terminal, print each changed row."
    return click.option("-w", "--watch", is_flag=True, help=text)(command)


async def keep_showing(
    read: Callable[[], Awaitable[Sequence[Row]]], form: OutputFormat, layout: TableLayout, *, empty: str = ""
) -> Never:
    """Read and print rows until Ctrl-C: a terminal shows all rows, a pipe receives each new or changed row.

    Retries while the API is unreachable for less than a minute. Raises `ApiCallError` for any other failure, and
    `click.UsageError` if `form` is JSON or YAML.
    """
    if form in ("json", "yaml"):
        raise click.UsageError("--watch needs -o table, jsonl or name: a JSON or YAML document would never end")
    loop = asyncio.get_running_loop()
    screen = sys.stdout.isatty() and form == "table"
    printed: dict[str, Row] = {}
    answered_at, header, reported = -LONGEST_AWAY_S, True, ""
    while True:
        try:
            rows = await read()
        except ApiCallError as error:
            if not error.retryable or loop.time() - answered_at > LONGEST_AWAY_S:
                raise
            if str(error) != reported:
                reported = str(error)
                say(f"muster: {reported}; still trying")
        else:
            answered_at, reported = loop.time(), ""
            if screen:
                _draw(rows, layout, empty)
            elif changed := [row for row in rows if printed.get(row[layout.name]) != row]:
                emit_rows(changed, form, layout, header=header)
                header = False
                sys.stdout.flush()
            printed = {row[layout.name]: row for row in rows}
        await asyncio.sleep(EVERY_S)


def _draw(rows: Sequence[Row], layout: TableLayout, empty: str) -> None:
    room = max(shutil.get_terminal_size().lines - _LINES_BESIDE_ROWS, 1)
    sys.stdout.write(_CLEAR)
    emit_rows(rows[:room], "table", layout, empty=empty)
    sys.stdout.flush()
    if len(rows) > room:
        say(f"… and {len(rows) - room} more rows; Ctrl-C stops watching")
