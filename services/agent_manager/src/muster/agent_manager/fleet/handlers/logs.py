"""Handles reads of an agent's output, page by page."""

import asyncio

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.handlers.lifecycle import found
from muster.agent_manager.fleet.store.logs import AgentLogCursor, AgentLogs
from muster.common.contracts.agent_logs import AgentLogPage, GetAgentLogs, LogLine
from muster.common.contracts.limits import MOST_LINES
from muster.common.faults import InvalidMessage

LONGEST_WAIT_S = 25.0
DEADLINE_S = LONGEST_WAIT_S + 10.0


class AgentLogRequests:
    """Serves reads of agents' output. Any manager can answer, because JetStream contains all stored output."""

    def __init__(self, database: ManagerDatabase, logs: AgentLogs) -> None:
        self._database, self._logs = database, logs

    async def page(self, query: GetAgentLogs) -> AgentLogPage:
        """Return output lines after the cursor, or the last lines without a cursor. Wait up to `wait_s` s for lines."""
        if not 1 <= query.limit <= MOST_LINES:
            raise InvalidMessage(f"limit must be between 1 and {MOST_LINES}", field="$.limit")
        if not 0 <= query.wait_s <= LONGEST_WAIT_S:
            raise InvalidMessage(f"wait_s must be between 0 and {LONGEST_WAIT_S:g} seconds", field="$.wait_s")
        cursor = None if query.cursor is None else AgentLogCursor.read(query.cursor)
        async with self._database.reading() as tx:
            agent = await found(tx, query.agent_id)
        lines, cursor, reset = await self._lines(agent.agent_id, cursor, query.limit)
        if not lines and query.wait_s:
            lines, cursor = await self._wait(agent.agent_id, cursor, query)
        return AgentLogPage(agent_id=agent.agent_id, lines=lines, next_cursor=cursor.written(), reset=reset)

    async def _lines(
        self, agent_id: str, cursor: AgentLogCursor | None, limit: int
    ) -> tuple[list[LogLine], AgentLogCursor, bool]:
        if cursor is None:
            return *await self._logs.last(agent_id, limit), False
        return await self._logs.after(agent_id, cursor, limit)

    async def _wait(
        self, agent_id: str, cursor: AgentLogCursor, query: GetAgentLogs
    ) -> tuple[list[LogLine], AgentLogCursor]:
        async with self._logs.woken(agent_id) as woken:
            lines = list[LogLine]()
            try:
                async with asyncio.timeout(query.wait_s):
                    while True:
                        woken.clear()
                        lines, cursor, _ = await self._logs.after(agent_id, cursor, query.limit)
                        if lines:
                            break
                        await woken.wait()
            except TimeoutError:
                return lines, cursor
        return lines, cursor
