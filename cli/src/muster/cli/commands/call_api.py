"""Commands that call the API: their options, one event loop each, and how a refusal ends them."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from muster.cli.client.target import ApiTarget, TargetOptions, find_target
from muster.cli.commands.watching import keep_showing
from muster.cli.console.output import Exit, Form, Row, Shape, emit_rows, fail, say

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient
    from muster.cli.client.api_call_error import ApiCallError

PATH = click.Path(path_type=Path)


class RowPage(NamedTuple):
    """Some rows, and where the rest begins if there is one."""

    rows: list[Row]
    next_cursor: str | None = None


def api_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--url`, `--key`, `--profile` and `--data`, passed as `target`."""

    @click.option("--url", metavar="URL", help="The API to call. [MUSTER_API_URL]")
    @click.option("--key", metavar="KEY", help="The key for it. [MUSTER_API_KEY]")
    @click.option("--profile", metavar="NAME", help="Or an API kept by name. [MUSTER_PROFILE]")
    @click.option("--data", metavar="DIR", type=PATH, help="Or the stack of this directory. [MUSTER_DATA_DIR]")
    @wraps(command)
    def with_target(
        *given: object, url: str | None, key: str | None, profile: str | None, data: Path | None, **options: object
    ) -> object:
        return command(*given, target=TargetOptions(url, key, profile, data), **options)

    return with_target


def call[T](target: TargetOptions, act: Callable[["ApiClient"], Awaitable[T]]) -> T:
    """Run `act` with a client of the API that the options mean; ends the command when the API says no."""
    return call_target(find_target(target), act)


def call_target[T](found: ApiTarget, act: Callable[["ApiClient"], Awaitable[T]]) -> T:
    """The same with an API that was found already."""
    from muster.cli.client.api import ApiClient
    from muster.cli.client.api_call_error import ApiCallError

    async def run() -> T:
        async with ApiClient(found.url, found.key) as api:
            return await act(api)

    try:
        return asyncio.run(run())
    except ApiCallError as refusal:
        fail(_explained(refusal, found), refusal.exit_code)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


def _explained(refusal: "ApiCallError", found: ApiTarget) -> str:
    """With what it rests on where the address or the key is to blame: where that was found, and what to do."""
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        told = f"{found.url} refuses the key from {found.key_source.words}: {refusal}"
        return f"{told}.\n{_sentence(found.key_source.refused)}"
    if refusal.status == HTTPStatus.FORBIDDEN:
        return f"{refusal}. The key is from {found.key_source.words}; `muster auth whoami` shows what it may do."
    if refusal.status is None:
        return f"{refusal}.\nThe URL is from {found.url_source.words}: {found.url_source.unreachable}."
    return str(refusal)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def show_rows(
    target: TargetOptions,
    read: Callable[["ApiClient"], Awaitable[RowPage]],
    form: Form,
    shape: Shape,
    *,
    empty: str = "",
    watch: bool = False,
) -> None:
    """Print what `read` finds; with `watch` again and again, until interrupted."""

    async def act(api: "ApiClient") -> RowPage:
        if watch:
            await keep_showing(lambda: _rows(read(api)), form, shape, empty=empty)
        return await read(api)

    found = call(target, act)
    emit_rows(found.rows, form, shape, empty=empty)
    if found.next_cursor:
        say(f"There are more: --cursor {found.next_cursor}")


async def _rows(listed: Awaitable[RowPage]) -> list[Row]:
    return (await listed).rows
