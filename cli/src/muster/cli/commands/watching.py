"""`--watch`: something shown again whenever it has changed."""

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Never

import click

from muster.cli.client.api_call_error import ApiCallError
from muster.cli.console.output import Form, Row, Shape, emit_rows, say

EVERY_S = 2.0
"""There is no feed of everything that lists show; so they are asked for again."""
LONGEST_AWAY_S = 60.0
_CLEAR = "\x1b[2J\x1b[H"
_LINES_BESIDE_ROWS = 4
"""The header, which columns and rows are not there, and the cursor's."""


def watch_option[F: Callable[..., Any]](command: F) -> F:
    """`--watch`, passed as `watch`."""
    text = "Show it again as it changes, until Ctrl-C. Where stdout is no terminal: each changed row."
    return click.option("-w", "--watch", is_flag=True, help=text)(command)


async def keep_showing(
    read: Callable[[], Awaitable[Sequence[Row]]], form: Form, shape: Shape, *, empty: str = ""
) -> Never:
    """Show rows for ever: on a terminal as a screen, otherwise each row when it is new or has changed.

    An API that goes away for less than a minute is waited for. Raises `ApiCallError` for anything else it says.
    """
    if form in ("json", "yaml"):
        raise click.UsageError("--watch goes with -o table, jsonl or name: a JSON or YAML text has an end")
    loop = asyncio.get_running_loop()
    screen = sys.stdout.isatty() and form == "table"
    seen: dict[str, Row] = {}
    answered_at, header, told = -LONGEST_AWAY_S, True, ""
    while True:
        try:
            rows = await read()
        except ApiCallError as refusal:
            if not refusal.passing or loop.time() - answered_at > LONGEST_AWAY_S:
                raise
            if str(refusal) != told:
                told = str(refusal)
                say(f"muster: {told}; still trying")
        else:
            answered_at, told = loop.time(), ""
            if screen:
                _draw(rows, shape, empty)
            elif changed := [row for row in rows if seen.get(row[shape.name]) != row]:
                emit_rows(changed, form, shape, header=header)
                header = False
                sys.stdout.flush()
            seen = {row[shape.name]: row for row in rows}
        await asyncio.sleep(EVERY_S)


def _draw(rows: Sequence[Row], shape: Shape, empty: str) -> None:
    room = max(shutil.get_terminal_size().lines - _LINES_BESIDE_ROWS, 1)
    sys.stdout.write(_CLEAR)
    emit_rows(rows[:room], "table", shape, empty=empty)
    sys.stdout.flush()
    if len(rows) > room:
        say(f"… and {len(rows) - room} more; Ctrl-C ends")
