"""Keeps tables and streams from growing for ever: what is older than its setting says is deleted.

Rows go in batches, each in a transaction of its own, so that neither locks nor a crash matter: the next look goes on.
Streams delete by themselves, by the `max_age` that they are given at start. Sandbox logs have none: they are evidence.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.retention import store
from muster.agent_manager.settings import ManagerSettings
from muster.common.bus.streams import StreamSpec
from muster.common.faults import Fault

log = structlog.get_logger()

BATCH: Final = 500
EVENTS_LONGER_DAYS: Final = 7
"""A task's first events are older than its end; while there is its row, there are its events."""

Delete = Callable[..., Awaitable[int]]


class Retention:
    """Deletes rows of the manager that were kept long enough."""

    def __init__(self, database: ManagerDatabase, settings: ManagerSettings) -> None:
        self._database, self._every_s = database, settings.retention_every_s
        self._kept: dict[str, tuple[int, Delete]] = {
            "tasks": (settings.tasks_kept_days, store.ended_tasks),
            "launches": (settings.agents_kept_days, store.ended_launches),
            "commands": (settings.commands_kept_days, store.commands),
        }

    async def run(self) -> None:
        """Look now and then, for ever. To be supervised."""
        while True:
            try:
                await self.look()
            except Fault as error:
                log.warning("old rows not deleted", error=str(error))
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Delete all that is old enough now. Raises `Unavailable`."""
        for name, (days, delete) in self._kept.items():
            deleted = 0
            while days:
                async with self._database.begin() as tx:
                    batch = await delete(tx, days=days, most=BATCH)
                deleted += batch
                if batch < BATCH:
                    break
            if deleted:
                log.info("old rows deleted", table=name, rows=deleted, kept_days=days)


def limited(streams: tuple[StreamSpec, ...], settings: ManagerSettings) -> list[StreamSpec]:
    """The manager's streams with the ages that the settings give them."""
    tasks_days = settings.tasks_kept_days and settings.tasks_kept_days + EVENTS_LONGER_DAYS
    days = {"TASKS": tasks_days, "AGENTS": settings.agents_kept_days, "AGENT_LOGS": settings.agent_logs_kept_days}
    return [stream.kept_for(days[stream.name]) for stream in streams]
