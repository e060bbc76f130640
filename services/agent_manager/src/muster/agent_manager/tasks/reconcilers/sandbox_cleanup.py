"""Deletes sandboxes that nobody needs: those of ended attempts, and those that should not be there (I1)."""

import asyncio
from datetime import timedelta

import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.store import attempts
from muster.common.faults import Fault

log = structlog.get_logger()

CONSUMED_KEPT = timedelta(days=7)


class SandboxSweeper:
    """That an attempt's sandbox is deleted is stored with the attempt, so no crash forgets one."""

    def __init__(self, database: ManagerDatabase, gateway: SandboxGatewayClient) -> None:
        self._database, self._gateway = database, gateway

    async def find(self) -> list[AttemptRecord]:
        """Ended attempts whose sandbox is still there."""
        async with self._database.begin() as tx:
            return await attempts.unwanted(tx)

    async def act(self, attempt: AttemptRecord) -> None:
        """Delete the sandbox of one."""
        await self._gateway.delete(attempt.sandbox_id, reason=f"attempt {attempt.state}")
        async with self._database.begin() as tx:
            await attempts.note(tx, attempt, sandbox_deleted_at=tx.now)


class StraySandboxReaper:
    """Compares what the gateways have with what should be. What is not known to be ours is left alone."""

    def __init__(self, database: ManagerDatabase, gateway: SandboxGatewayClient, *, every_s: float) -> None:
        self._database, self._gateway, self._every_s = database, gateway, every_s

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Fault as error:
                log.warning("stray sandboxes not listed", error=str(error))

    async def look(self) -> None:
        """Once: delete what has no place, and forget what can be told no more."""
        there = {one.sandbox_id: one.task_id for one in await self._gateway.sandboxes() if one.state != "deleted"}
        async with self._database.reading() as tx:
            strays = await attempts.strays(tx, there)
        for sandbox_id in strays:
            log.info("stray sandbox deleted", sandbox_id=sandbox_id, task_id=there[sandbox_id])
            await self._gateway.delete(sandbox_id, reason="no live attempt")
        async with self._database.begin() as tx:
            await attempts.forget_consumed(tx, older_than=tx.now - CONSUMED_KEPT)
