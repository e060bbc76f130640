"""Implements `--watch`: reads rows every 2 s and prints them again when they have changed."""

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Never

import click

from muster.cli.client.api_call_error import ApiCallError
from muster.cli.console.output import Form, Row, Shape, emit_rows, say

EVERY_S = 2.0
"""Seconds between two reads. Polling is used because the API has no feed of list changes."""
LONGEST_AWAY_S = 60.0
"""Seconds for which an unreachable API is tried again."""
_CLEAR = "\x1b[2J\x1b[H"
_LINES_BESIDE_ROWS = 4
"""Lines of the screen without a row: the header, dropped columns, the number of hidden rows, and the cursor."""


def watch_option[F: Callable[..., Any]](command: F) -> F:
    """Add the option `--watch`, passed to the command as `watch`."""
    text = "Refresh until Ctrl-C. If stdout is not a terminal, print each changed row."
    return click.option("-w", "--watch", is_flag=True, help=text)(command)


async def keep_showing(
    read: Callable[[], Awaitable[Sequence[Row]]], form: Form, shape: Shape, *, empty: str = ""
) -> Never:
    """Read and print rows until interrupted: a terminal shows all of them, a pipe gets each new or changed row.

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
                _draw(rows, shape, empty)
            elif changed := [row for row in rows if printed.get(row[shape.name]) != row]:
                emit_rows(changed, form, shape, header=header)
                header = False
                sys.stdout.flush()
            printed = {row[shape.name]: row for row in rows}
        await asyncio.sleep(EVERY_S)


def _draw(rows: Sequence[Row], shape: Shape, empty: str) -> None:
    room = max(shutil.get_terminal_size().lines - _LINES_BESIDE_ROWS, 1)
    sys.stdout.write(_CLEAR)
    emit_rows(rows[:room], "table", shape, empty=empty)
    sys.stdout.flush()
    if len(rows) > room:
        say(f"… and {len(rows) - room} more rows; Ctrl-C stops watching")
