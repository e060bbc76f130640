"""Finds the full id of the object (task, sandbox, agent, user or key) that a user names on the command line.

A user may type the full id, the unique beginning of an id (with or without its prefix such as `tsk_`) or, for agents,
users and keys, a name. At most `MAX_PAGES` pages of the API's list are searched, newest first.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from muster.cli.console.output import Exit, fail
from muster.common.contracts.limits import LARGEST_PAGE

if TYPE_CHECKING:
    from muster.client import AsyncMuster

_WHOLE_ID = re.compile(r"[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}")
MAX_PAGES = 10
"""Pages of a list that are searched for the beginning of an id."""
type IdPage = tuple[list[str], str | None]
"""Ids, and the cursor of the next page (None: this is the last page)."""
type NamedIdPage = tuple[Sequence[tuple[str, str]], str | None]
"""Pairs of name and id, and the cursor of the next page (None: this is the last page)."""


async def whole_task_id(api: "AsyncMuster", text: str) -> str:
    """Return the id of the only recent task whose id begins with `text`; end the command if no task matches."""

    async def page(cursor: str | None) -> IdPage:
        found = await api.tasks.list(limit=LARGEST_PAGE, cursor=cursor)
        return [task.task_id for task in found.tasks], found.next_cursor

    return await resolve_prefix(text, "tsk", "task", page)


async def whole_sandbox_id(api: "AsyncMuster", text: str) -> str:
    """Return the id of the only sandbox whose id begins with `text`; end the command if no sandbox matches."""

    async def page(_: str | None) -> IdPage:
        return [sandbox.sandbox_id for sandbox in (await api.sandboxes.list()).sandboxes], None

    return await resolve_prefix(text, "sbx", "sandbox", page)


async def whole_agent_id(api: "AsyncMuster", text: str) -> str:
    """Return the id of the agent named `text`, or of the only agent whose id begins with `text`.

    Ends the command if no agent matches, or if several ids begin with `text`.
    """

    async def page(cursor: str | None) -> IdPage:
        found = await api.agents.list(limit=LARGEST_PAGE, cursor=cursor)
        return [agent.agent_id for agent in found.agents], found.next_cursor

    if text and not _WHOLE_ID.fullmatch(text):
        candidates = await api.agents.list(name_starts=text, limit=LARGEST_PAGE)
        for agent in candidates.agents:
            if agent.name == text:
                return agent.agent_id
    return await resolve_prefix(text, "agt", "agent", page)


async def resolve_named(text: str, prefix: str, noun: str, page: Callable[[str | None], Awaitable[NamedIdPage]]) -> str:
    """Return the id of the object named `text`, or else of the only object whose id begins with `text`.

    Ends the command if no object matches, or if several have this name: names of users and keys are not unique.
    `prefix` and `noun` are the prefix of the ids and the kind of object.
    """
    pages: dict[str | None, NamedIdPage] = {}

    async def read(cursor: str | None) -> NamedIdPage:
        if cursor not in pages:
            pages[cursor] = await page(cursor)
        return pages[cursor]

    async def all_ids(cursor: str | None) -> IdPage:
        pairs, next_cursor = await read(cursor)
        return [object_id for _, object_id in pairs], next_cursor

    async def ids_of_this_name(cursor: str | None) -> IdPage:
        pairs, next_cursor = await read(cursor)
        return [object_id for name, object_id in pairs if name == text], next_cursor

    if text and not _WHOLE_ID.fullmatch(text):
        matches = [object_id async for object_id in _ids(ids_of_this_name)]
        if len(matches) > 1:
            fail(f"{len(matches)} {noun}s are called {text}: {', '.join(matches)}. Give the id of one.", Exit.USAGE)
        if matches:
            return matches[0]
    return await resolve_prefix(text, prefix, noun, all_ids)


async def resolve_prefix(text: str, prefix: str, noun: str, page: Callable[[str | None], Awaitable[IdPage]]) -> str:
    """Return the only id that begins with `text`; end the command if no id or more than one id begins with `text`.

    A full id is returned without a search, so that a user can also name an object older than the searched pages.
    """
    if _WHOLE_ID.fullmatch(text):
        return text
    command = f"`muster {noun} list`" if noun in ("task", "sandbox", "agent") else f"`muster auth {noun}s list`"
    if not text:
        fail(f"the {noun} id is empty; {command} shows all ids", Exit.USAGE)
    searched = [object_id async for object_id in _ids(page)]
    found = [object_id for object_id in searched if object_id.startswith((text, f"{prefix}_{text}"))]
    if len(found) > 1:
        fail(f"{text} is the beginning of {len(found)} ids; give more characters of the id", Exit.USAGE)
    if not found:
        newest = f" among the newest {len(searched)}" if len(searched) >= MAX_PAGES * LARGEST_PAGE else ""
        subject = noun if noun in ("task", "sandbox") else f"{noun} called {text}, and none"
        fail(f"there is no {subject} whose id begins with {text}{newest}; {command} shows all ids", Exit.NOT_FOUND)
    return found[0]


async def _ids(page: Callable[[str | None], Awaitable[IdPage]]) -> AsyncIterator[str]:
    cursor = None
    for _ in range(MAX_PAGES):
        ids, cursor = await page(cursor)
        for object_id in ids:
            yield object_id
        if cursor is None:
            return
