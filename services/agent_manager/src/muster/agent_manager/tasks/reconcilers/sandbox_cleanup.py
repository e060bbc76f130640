"""Deletes sandboxes that are no longer needed: those of ended attempts, and strays without a live attempt (I1)."""

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
    """Deletes the sandboxes of ended attempts. Each deletion is stored with its attempt: a crash forgets none."""

    def __init__(self, database: ManagerDatabase, gateway: SandboxGatewayClient) -> None:
        self._database, self._gateway = database, gateway

    async def find(self) -> list[AttemptRecord]:
        """Return the ended attempts whose sandbox is not known to be deleted."""
        async with self._database.begin() as tx:
            return await attempts.unwanted(tx)

    async def act(self, attempt: AttemptRecord) -> None:
        """Delete the sandbox of one attempt."""
        await self._gateway.delete(attempt.sandbox_id, reason=f"attempt {attempt.state}")
        async with self._database.begin() as tx:
            await attempts.note(tx, attempt, sandbox_deleted_at=tx.now)


class StraySandboxReaper:
    """Compares the sandboxes of the gateways with the attempts, and deletes strays. Sandboxes of unknown tasks stay."""

    def __init__(self, database: ManagerDatabase, gateway: SandboxGatewayClient, *, every_s: float) -> None:
        self._database, self._gateway, self._every_s = database, gateway, every_s

    async def run(self) -> None:
        """Look for strays at every interval, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Fault as error:
                log.warning("stray sandboxes not listed", error=str(error))

    async def look(self) -> None:
        """Delete strays once, and drop ids of events that cannot be delivered again."""
        there = {one.sandbox_id: one.task_id for one in await self._gateway.sandboxes() if one.state != "deleted"}
        async with self._database.reading() as tx:
            strays = await attempts.strays(tx, there)
        for sandbox_id in strays:
            log.info("stray sandbox deleted", sandbox_id=sandbox_id, task_id=there[sandbox_id])
            await self._gateway.delete(sandbox_id, reason="no live attempt")
        async with self._database.begin() as tx:
            await attempts.forget_consumed(tx, older_than=tx.now - CONSUMED_KEPT)
