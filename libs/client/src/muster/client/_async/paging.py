"""Reads all pages of a list, one after the other, and keeps only the current page in memory."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol


class AsyncPaged(Protocol):
    """A page of a list. `next_cursor` is the cursor of the next page, or None on the last page."""

    @property
    def next_cursor(self) -> str | None:
        """Return the cursor of the next page; None on the last page."""
        ...


async def all_pages[P: AsyncPaged](read: Callable[[str | None], Awaitable[P]]) -> AsyncGenerator[P]:
    """Yield all pages of a list, beginning with the first; `read` returns the page at a cursor."""
    cursor = None
    while True:
        page = await read(cursor)
        yield page
        cursor = page.next_cursor
        if cursor is None:
            return
