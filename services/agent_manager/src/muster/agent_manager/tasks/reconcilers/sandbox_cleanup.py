"""Deletes sandboxes of ended attempts, and other sandboxes that no live attempt uses (I1)."""

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
    """Deletes the sandboxes of ended attempts, and stores each deletion with its attempt.

    After a crash the next round deletes the sandboxes whose deletion was not stored.
    """

    def __init__(self, database: ManagerDatabase, gateway: SandboxGatewayClient) -> None:
        self._database, self._gateway = database, gateway

    async def find(self) -> list[AttemptRecord]:
        """Return the ended attempts whose sandbox is no longer needed and not recorded as deleted."""
        async with self._database.begin() as tx:
            return await attempts.unwanted(tx)

    async def act(self, attempt: AttemptRecord) -> None:
        """Delete the sandbox of one ended attempt, and store the time of the deletion."""
        await self._gateway.delete(attempt.sandbox_id, reason=f"attempt {attempt.state}")
        async with self._database.begin() as tx:
            await attempts.note(tx, attempt, sandbox_deleted_at=tx.now)


class StraySandboxReaper:
    """Compares the sandboxes of the gateways with the stored attempts, and deletes those that no live attempt uses.

    Sandboxes of tasks that this database does not contain are kept: they belong to another deployment.
    """

    def __init__(self, database: ManagerDatabase, gateway: SandboxGatewayClient, *, every_s: float) -> None:
        self._database, self._gateway, self._every_s = database, gateway, every_s

    async def run(self) -> None:
        """Every `every_s` seconds, delete sandboxes that no live attempt uses, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Fault as error:
                log.warning("search for sandboxes without live attempt failed", error=str(error))

    async def look(self) -> None:
        """Delete sandboxes that no live attempt uses, and stored ids of events that are over 7 days old."""
        there = {one.sandbox_id: one.task_id for one in await self._gateway.sandboxes() if one.state != "deleted"}
        async with self._database.reading() as tx:
            strays = await attempts.strays(tx, there)
        for sandbox_id in strays:
            log.info("sandbox without live attempt deleted", sandbox_id=sandbox_id, task_id=there[sandbox_id])
            await self._gateway.delete(sandbox_id, reason="no live attempt")
        async with self._database.begin() as tx:
            await attempts.forget_consumed(tx, older_than=tx.now - CONSUMED_KEPT)
