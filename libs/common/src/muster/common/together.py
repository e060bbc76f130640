"""Batches look-ups: many callers that ask for one thing each, at the same time, share few requests."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from muster.common.contracts.limits import LARGEST_PAGE
from muster.common.faults import Fault, TimedOut, Unavailable

PATIENCE_S = 0.05
"""Seconds. A request that takes longer is not waited for: the next one is sent beside it."""


class Together[R]:
    """Looks things up by id. One request is under way at a time; callers that come meanwhile share the next one.

    The first caller waits for nothing, and nothing is kept: a reply is never older than its question. An id for which a
    shared request brought nothing, because it does not exist or does not fit into the reply, is requested alone.
    """

    def __init__(
        self, alone: Callable[[str], Awaitable[R]], several: Callable[[Sequence[str]], Awaitable[Mapping[str, R]]]
    ) -> None:
        self._alone, self._several = alone, several
        self._turn = asyncio.Lock()
        self._boarding: list[tuple[str, asyncio.Future[R | None]]] | None = None

    async def one(self, entity_id: str) -> R:
        """Return the thing with this id. Raises what `alone` raises."""
        company = self._boarding
        if company is None or len(company) >= LARGEST_PAGE - 1:
            found = await self._lead(entity_id)
        else:
            mine: asyncio.Future[R | None] = asyncio.get_running_loop().create_future()
            company.append((entity_id, mine))
            found = await mine
        return await self._alone(entity_id) if found is None else found

    async def _lead(self, entity_id: str) -> R | None:
        company: list[tuple[str, asyncio.Future[R | None]]] = []
        found: Mapping[str, R] = {}
        self._boarding = company
        mine = False
        try:
            mine = await self._taken_turn()
            self._leave(company)
            if not company:
                return await self._alone(entity_id)
            found = await self._several([entity_id, *(asked for asked, _ in company)])
        except (Unavailable, TimedOut) as fault:
            for _, waiting in company:
                if not waiting.done():
                    waiting.set_exception(fault)
            raise
        except Fault:
            if not company:
                raise
        finally:
            if mine:
                self._turn.release()
            self._leave(company)
            for asked, waiting in company:
                if not waiting.done():
                    waiting.set_result(found.get(asked))
        return found.get(entity_id)

    async def _taken_turn(self) -> bool:
        """Return whether the turn is this caller's; False after the wait."""
        if not self._turn.locked():
            return await self._turn.acquire()
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._turn.acquire()
        except TimeoutError:
            return False

    def _leave(self, company: list[tuple[str, asyncio.Future[R | None]]]) -> None:
        if self._boarding is company:
            self._boarding = None
