"""Ownership of agents in process mode: renews this manager's lease, takes agents, and renews their credentials.

Each manager has one lease on the database's clock. Each agent's row names its owner. Every transaction that writes
about an agent checks the owner. So a manager that was frozen, while others took its agents, stores nothing when it
continues.
"""

import asyncio
from collections.abc import Callable

import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.adapters.credentials import AgentCredentials
from muster.agent_manager.fleet.adapters.shim import AgentProcesses
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.reconcilers.processes import ProcessReconciler
from muster.agent_manager.fleet.store import ownership
from muster.common.faults import Conflict, Fault

log = structlog.get_logger()

LEAVE_WITHIN_S = 2.0
RETRY_S = 0.5


class Ownership:
    """Renews the lease of this manager, and takes agents that have no owner.

    An expired lease is never renewed: the manager begins a lease under a new id and then owns no agents. So a manager
    that was paused too long finds that it owns no row, and changes nothing.
    """

    def __init__(
        self,
        database: ManagerDatabase,
        processes: ProcessReconciler,
        *,
        waker: asyncio.Event,
        new_id: Callable[[], str],
        ttl_s: float,
        every_s: float,
    ) -> None:
        self._database, self._processes, self._waker, self._new_id = database, processes, waker, new_id
        self._ttl_s, self._every_s = ttl_s, every_s

    async def run(self) -> None:
        """Renew the lease and take agents, until cancelled; then end the lease."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                next_s = loop.time() + self._every_s
                try:
                    await self._keep()
                    while await self._woken_before(next_s):
                        await self._claim(orphans=False)
                except Fault as error:
                    log.warning("manager lease not renewed", error=str(error))
                    await self._woken_before(min(next_s, loop.time() + RETRY_S))
        finally:
            await self._leave()

    async def _woken_before(self, at_s: float) -> bool:
        """Wait for a change in the database; return False when the lease must be renewed instead."""
        try:
            async with asyncio.timeout_at(at_s):
                await self._waker.wait()
        except TimeoutError:
            return False
        self._waker.clear()
        return True

    async def _keep(self) -> None:
        owner = self._processes.owner
        if owner and not await self._renewed(owner):
            log.warning("manager lease expired", manager_id=owner)
            owner = ""
        if not owner:
            owner = self._new_id()
            async with self._database.begin() as tx:
                await ownership.enlist(tx, owner, self._ttl_s)
            self._processes.begin(owner)
            log.info("manager lease acquired", manager_id=owner)
        await self._claim(orphans=True)

    async def _claim(self, *, orphans: bool) -> None:
        owner = self._processes.owner
        while owner:
            async with self._database.begin() as tx:
                claimed = await ownership.claim(tx, owner, orphans=orphans)
            if not claimed:
                return
            log.info("agents taken over", manager_id=owner, agents=len(claimed))
            self._processes.claimed(claimed)

    async def _renewed(self, owner: str) -> bool:
        async with self._database.begin() as tx:
            return await ownership.renew(tx, owner, self._ttl_s)

    async def _leave(self) -> None:
        if not (owner := self._processes.owner):
            return
        self._processes.begin("")
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S), self._database.begin() as tx:
                await ownership.leave(tx, owner)
        except (Fault, TimeoutError) as error:
            log.warning("manager lease not released", error=str(error))


class CredentialRenewal:
    """Renews the leases of processes in the shim, and the credentials of running agents. Needs no database."""

    def __init__(self, workers: AgentProcesses, credentials: AgentCredentials, *, every_s: float) -> None:
        self._workers, self._credentials, self._every_s = workers, credentials, every_s
        self._kept: dict[str, AgentRecord] = {}
        self._issued: dict[str, float] = {}

    def keep(self, agent: AgentRecord) -> None:
        """Begin to renew the agent's lease and credentials. For a new launch, the next round renews the credentials."""
        before = self._kept.get(agent.agent_id)
        self._kept[agent.agent_id] = agent
        if before is None or before.launch != agent.launch:
            self._issued.pop(agent.agent_id, None)

    def end(self, agent: AgentRecord) -> bool:
        """Renew nothing more for an agent whose process has ended, and delete the files that contain its secrets."""
        if (kept := self._kept.pop(agent.agent_id, None)) is not None:
            self._workers.forget_secrets(kept)
        self._issued.pop(agent.agent_id, None)
        return True

    def forget(self, agent_id: str) -> None:
        """Stop renewing the lease and credentials of an agent that another manager owns."""
        self._kept.pop(agent_id, None)
        self._issued.pop(agent_id, None)

    async def run(self) -> None:
        """Renew leases and credentials every `every_s` seconds, until cancelled."""
        while True:
            try:
                await self._workers.renew({agent_id: agent.launch for agent_id, agent in self._kept.items()})
                await self._renew_credentials()
            except Fault as error:
                log.warning("process leases not renewed", error=str(error))
            await asyncio.sleep(self._every_s)

    async def _renew_credentials(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for agent_id, agent in list(self._kept.items()):
            if now_s - self._issued.get(agent_id, float("-inf")) >= self._credentials.ttl_s / 2:
                try:
                    self._credentials.renew(agent_id, agent.launch, self._workers.credentials_file(agent))
                except Conflict as refusal:  # A failure for one agent must not affect other agents.
                    log.warning("agent credentials not renewed", agent_id=agent_id, error=str(refusal))
                    continue
                await asyncio.sleep(0)  # Thousands of renewals take long; let other asyncio tasks run.
                self._issued[agent_id] = now_s
