"""Ids from their unique beginnings, and agents by their names."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from muster.cli.console.output import Exit, fail
from muster.common.contracts.limits import LARGEST_PAGE

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient

_WHOLE_ID = re.compile(r"[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}")
MOST_PAGES = 10
"""As far back as an abbreviated id is looked for."""
type Page = tuple[list[str], str | None]
type Named = tuple[Sequence[tuple[str, str]], str | None]
"""Names with their ids, and where the rest begins if there is one."""


async def whole_task_id(api: "ApiClient", given: str) -> str:
    """A task id from its unique beginning, among the newest; ends the command when there is none."""

    async def page(cursor: str | None) -> Page:
        found = await api.tasks(limit=LARGEST_PAGE, cursor=cursor)
        return [task.task_id for task in found.tasks], found.next_cursor

    return await only(given, "tsk", "task", page)


async def whole_sandbox_id(api: "ApiClient", given: str) -> str:
    """A sandbox id from its unique beginning; ends the command when there is none."""

    async def page(_: str | None) -> Page:
        return [sandbox.sandbox_id for sandbox in (await api.sandboxes()).sandboxes], None

    return await only(given, "sbx", "sandbox", page)


async def whole_agent_id(api: "ApiClient", given: str) -> str:
    """An agent's id from its name or the unique beginning of its id; ends the command when there is none."""

    async def page(cursor: str | None) -> Page:
        found = await api.fleet.list(limit=LARGEST_PAGE, cursor=cursor)
        return [agent.agent_id for agent in found.agents], found.next_cursor

    if given and not _WHOLE_ID.fullmatch(given):
        named = await api.fleet.list(name_starts=given, limit=LARGEST_PAGE)
        for agent in named.agents:
            if agent.name == given:
                return agent.agent_id
    return await only(given, "agt", "agent", page)


async def called(given: str, prefix: str, noun: str, page: Callable[[str | None], Awaitable[Named]]) -> str:
    """The id of the one with that name, or the one that begins so; ends the command when that is none, or several.

    A name wins over the beginning of an id. Names need not be unique: of several with it none is meant.
    """
    pages: dict[str | None, Named] = {}

    async def read(cursor: str | None) -> Named:
        if cursor not in pages:
            pages[cursor] = await page(cursor)
        return pages[cursor]

    async def ids(cursor: str | None) -> Page:
        found, following = await read(cursor)
        return [one for _, one in found], following

    async def namesakes(cursor: str | None) -> Page:
        found, following = await read(cursor)
        return [one for name, one in found if name == given], following

    if given and not _WHOLE_ID.fullmatch(given):
        same = [one async for one in _pages(namesakes)]
        if len(same) > 1:
            fail(f"{len(same)} {noun}s are called {given}: {', '.join(same)}; say which by its id", Exit.USAGE)
        if same:
            return same[0]
    return await only(given, prefix, noun, ids)


async def only(given: str, prefix: str, noun: str, page: Callable[[str | None], Awaitable[Page]]) -> str:
    """The one id that begins so; ends the command when there is none, or more than one."""
    if _WHOLE_ID.fullmatch(given):  # also one too old for the list
        return given
    where = f"`muster {noun} list`" if noun in ("task", "sandbox", "agent") else f"`muster auth {noun}s list`"
    if not given:
        fail(f"an empty word is no {noun} id; {where} shows them", Exit.USAGE)
    seen = [one async for one in _pages(page)]
    found = [one for one in seen if one.startswith((given, f"{prefix}_{given}"))]
    if len(found) > 1:
        fail(f"{given} is the beginning of {len(found)} ids; give more of it", Exit.USAGE)
    if not found:
        newest = f" among the newest {len(seen)}" if len(seen) >= MOST_PAGES * LARGEST_PAGE else ""
        called = noun if noun in ("task", "sandbox") else f"{noun} called {given}, and none"
        fail(f"there is no {called} whose id begins with {given}{newest}; {where} shows them", Exit.NOT_FOUND)
    return found[0]


async def _pages(page: Callable[[str | None], Awaitable[Page]]) -> AsyncIterator[str]:
    cursor = None
    for _ in range(MOST_PAGES):
        ids, cursor = await page(cursor)
        for one in ids:
            yield one
        if cursor is None:
            return
