"""Shared parts of all commands that call the API: the options, the API call and the output of lists.

A command runs its API calls in one event loop (`call`). An `ApiCallError` ends the command with an error text
and the exit code of the error. If the URL or the key is the cause, the text names the flag, variable, profile or stack
that the URL or key came from.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from muster.cli.client.target import ApiTarget, TargetOptions, find_target
from muster.cli.commands.watching import keep_showing, watch_option
from muster.cli.console.output import Exit, OutputFormat, Row, TableLayout, emit_rows, fail, output_option, say
from muster.common.contracts.limits import DEFAULT_PAGE, LARGEST_PAGE

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.client.errors import ApiCallError

PATH = click.Path(path_type=Path)


class RowPage(NamedTuple):
    """One page of a list: the rows, and the cursor of the next page (None: this is the last page)."""

    rows: list[Row]
    next_cursor: str | None = None


def api_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select an API; the command receives their values together as `target`."""

    @click.option("--url", metavar="URL", help="Call the API at URL. [MUSTER_API_URL]")
    @click.option("--key", metavar="KEY", help="Authenticate with KEY. [MUSTER_API_KEY]")
    @click.option("--profile", metavar="NAME", help="Call the API saved as NAME. [MUSTER_PROFILE]")
    @click.option(
        "--data", metavar="DIR", type=PATH, help="Call the stack with the data directory DIR. [MUSTER_DATA_DIR]"
    )
    @wraps(command)
    def with_target(
        *arguments: object, url: str | None, key: str | None, profile: str | None, data: Path | None, **options: object
    ) -> object:
        return command(*arguments, target=TargetOptions(url, key, profile, data), **options)

    return with_target


def row_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that prints rows: `--watch`, `--output` and those of `api_options`."""
    return watch_option(output_option(api_options(command)))


def list_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that prints one page of a list: `--limit`, `--cursor` and those of `row_options`."""
    limit = click.option(
        "--limit",
        type=click.IntRange(1, LARGEST_PAGE),
        metavar="N",
        default=DEFAULT_PAGE,
        show_default=True,
        help="Show at most N entries.",
    )
    cursor = click.option(
        "--cursor", metavar="CURSOR", help="Show the next page; the previous page printed its cursor."
    )
    return limit(cursor(row_options(command)))


def call[T](target: TargetOptions, act: Callable[["AsyncMuster"], Awaitable[T]]) -> T:
    """Open a client of the API that the options select, call `act` with it, and return the result of `act`.

    Ends the command if no API is selected or an API call fails.
    """
    return call_target(find_target(target), act)


def call_target[T](found: ApiTarget, act: Callable[["AsyncMuster"], Awaitable[T]]) -> T:
    """Open a client of an API, call `act` with it, and return the result; end the command if an API call fails."""
    from muster.cli.client.exit_codes import exit_code
    from muster.client import AFTER_CUTS_ONLY, ApiCallError, AsyncMuster

    async def run() -> T:
        # The command does not retry when the API is busy: it prints the error at once, and the user decides.
        async with AsyncMuster(
            found.url, found.key, retries=AFTER_CUTS_ONLY, on_outage=_say_still_trying, user_agent="muster-cli"
        ) as api:
            return await act(api)

    try:
        return asyncio.run(run())
    except ApiCallError as error:
        fail(_error_text(error, found), exit_code(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


def _say_still_trying(error: "ApiCallError") -> None:
    say(f"muster: {error}; still trying")


def _error_text(error: "ApiCallError", found: ApiTarget) -> str:
    """Return the error's text; if the URL or the key is the cause, add the source of the URL or key and advice."""
    if error.status == HTTPStatus.UNAUTHORIZED:
        text = f"{found.url} refuses the key from {found.key_source.words}: {error}"
        return f"{text}.\n{_sentence(found.key_source.refused)}"
    if error.status == HTTPStatus.FORBIDDEN:
        return f"{error}. The key is from {found.key_source.words}; `muster auth whoami` shows its role and scopes."
    if error.status is None:
        return f"{error}.\nThe URL is from {found.url_source.words}: {found.url_source.unreachable}."
    return str(error)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def show_rows(
    target: TargetOptions,
    read: Callable[["AsyncMuster"], Awaitable[RowPage]],
    form: OutputFormat,
    layout: TableLayout,
    *,
    empty: str = "",
    watch: bool = False,
) -> None:
    """Print the rows that `read` returns; with `watch`, print the rows again at each change until Ctrl-C.

    `empty` is the message for a list without rows.
    """

    async def act(api: "AsyncMuster") -> RowPage:
        if watch:
            await keep_showing(lambda: _rows(read(api)), form, layout, empty=empty)
        return await read(api)

    found = call(target, act)
    emit_rows(found.rows, form, layout, empty=empty)
    if found.next_cursor:
        say(f"More entries follow: --cursor {found.next_cursor}")


async def _rows(listed: Awaitable[RowPage]) -> list[Row]:
    return (await listed).rows
