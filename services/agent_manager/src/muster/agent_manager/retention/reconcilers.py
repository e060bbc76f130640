"""Deletes old rows and limits the age of streams, so that neither grows for ever.

Rows are deleted in batches, each in its own transaction: locks are short, and after a crash the next look continues.
Streams delete by themselves, by the `max_age` that they are given at start. Sandbox logs have no age limit: they are
evidence.
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
"""The first events of a task are older than its end; while its row exists, its events exist."""

Delete = Callable[..., Awaitable[int]]


class Retention:
    """Deletes rows of the manager that are older than the settings say."""

    def __init__(self, database: ManagerDatabase, settings: ManagerSettings) -> None:
        self._database, self._every_s = database, settings.retention_every_s
        self._kept: dict[str, tuple[int, Delete]] = {
            "tasks": (settings.tasks_kept_days, store.ended_tasks),
            "launches": (settings.agents_kept_days, store.ended_launches),
            "commands": (settings.commands_kept_days, store.commands),
        }

    async def run(self) -> None:
        """Delete old rows at intervals, until cancelled. Must run under `supervise`."""
        while True:
            try:
                await self.look()
            except Fault as error:
                log.warning("old rows not deleted", error=str(error))
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Delete every row that is old enough now. Raises `Unavailable`."""
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
    """Return the manager's streams with the maximum ages of the settings."""
    tasks_days = settings.tasks_kept_days and settings.tasks_kept_days + EVENTS_LONGER_DAYS
    days = {"TASKS": tasks_days, "AGENTS": settings.agents_kept_days, "AGENT_LOGS": settings.agent_logs_kept_days}
    return [stream.kept_for(days[stream.name]) for stream in streams]
