"""Deletes sandboxes that nobody needs: those of ended attempts, and those that should not be there (I1)."""

import asyncio
from datetime import timedelta

import structlog

from muster.agent_manager.adapters.gateway import Gateway
from muster.agent_manager.domain.attempts import Attempt
from muster.agent_manager.store import attempts, tasks
from muster.agent_manager.store.database import Database
from muster.common.contracts.gateway import SandboxView
from muster.common.faults import Fault

log = structlog.get_logger()

CONSUMED_KEPT = timedelta(days=7)


class Sweeper:
    """That an attempt's sandbox is deleted is stored with the attempt, so no crash forgets one."""

    def __init__(self, database: Database, gateway: Gateway) -> None:
        self._database, self._gateway = database, gateway

    async def find(self) -> list[Attempt]:
        """Ended attempts whose sandbox is still there."""
        async with self._database.begin() as tx:
            return await attempts.unwanted(tx)

    async def act(self, attempt: Attempt) -> None:
        """Delete the sandbox of one."""
        await self._gateway.delete(attempt.sandbox_id, reason=f"attempt {attempt.state}")
        async with self._database.begin() as tx:
            await attempts.note(tx, attempt, sandbox_deleted_at=tx.now)


class Reaper:
    """Compares what the gateways have with what should be. What is not known to be ours is left alone."""

    def __init__(self, database: Database, gateway: Gateway, *, every_s: float) -> None:
        self._database, self._gateway, self._every_s = database, gateway, every_s

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Fault as error:
                log.warning("cannot reap", error=str(error))

    async def look(self) -> None:
        """Once: delete what has no place, and forget what can be told no more."""
        for sandbox in await self._gateway.sandboxes():
            if sandbox.state != "deleted" and await self._stray(sandbox):
                log.info("reaping", sandbox_id=sandbox.sandbox_id, task_id=sandbox.task_id)
                await self._gateway.delete(sandbox.sandbox_id, reason="no live attempt")
        async with self._database.begin() as tx:
            await attempts.forget_consumed(tx, older_than=tx.now - CONSUMED_KEPT)

    async def _stray(self, sandbox: SandboxView) -> bool:
        async with self._database.begin() as tx:
            found = await attempts.of_sandbox(tx, sandbox.sandbox_id)
            if found is not None:
                return found[1].sandbox_deleted_at is not None
            return await tasks.read(tx, sandbox.task_id) is not None
