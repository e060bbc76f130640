"""Deletes old rows from PostgreSQL and limits the age of events in JetStream, so that both stop growing.

Rows are deleted in batches, each in a separate transaction: locks are short, and a crash undoes at most one batch. The
next round continues. JetStream deletes old events by the `max_age` of each stream, which the manager sets when it
starts. Sandbox logs have no age limit, because they are evidence.
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
"""Days for which events of tasks outlive the task's row: the first events are older than the end of the task."""

Delete = Callable[..., Awaitable[int]]


class Retention:
    """Deletes rows of the agent manager that are older than the settings allow."""

    def __init__(self, database: ManagerDatabase, settings: ManagerSettings) -> None:
        self._database, self._every_s = database, settings.retention_every_s
        self._kept: dict[str, tuple[int, Delete]] = {
            "tasks": (settings.tasks_kept_days, store.ended_tasks),
            "launches": (settings.agents_kept_days, store.ended_launches),
            "commands": (settings.commands_kept_days, store.commands),
        }

    async def run(self) -> None:
        """Delete old rows every `retention_every_s` seconds, until cancelled. Must run under `supervise`."""
        while True:
            try:
                await self.look()
            except Fault as error:
                log.warning("old rows not deleted", error=str(error))
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Delete every row that is older than the settings allow. Raises `Unavailable` during a database outage."""
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
    """Return the streams of the agent manager with the maximum ages that the settings ask for."""
    tasks_days = settings.tasks_kept_days and settings.tasks_kept_days + EVENTS_LONGER_DAYS
    days = {"TASKS": tasks_days, "AGENTS": settings.agents_kept_days, "AGENT_LOGS": settings.agent_logs_kept_days}
    return [stream.kept_for(days[stream.name]) for stream in streams]
