"""Compares stored agents with the processes that really run, to find missed events and processes that must not run."""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.adapters.shim import AgentProcesses
from muster.agent_manager.fleet.domain.lifecycle import AgentProcess
from muster.agent_manager.fleet.reconcilers.processes import ProcessReconciler
from muster.agent_manager.fleet.store import cleanups, ownership
from muster.agent_manager.fleet.store.cleanups import REMEMBERED
from muster.common.clock import Clock
from muster.common.faults import Fault

log = structlog.get_logger()

There = Mapping[str, Sequence[AgentProcess]]


class ProcessDriftCheck:
    """Compares the agents of this manager with the processes of the shim at intervals.

    `ProcessReconciler` then acts on the differences, under this manager's lease.
    """

    def __init__(
        self,
        database: ManagerDatabase,
        workers: AgentProcesses,
        processes: ProcessReconciler,
        *,
        every_s: float,
        now: Clock,
    ) -> None:
        self._database, self._workers, self._processes = database, workers, processes
        self._every_s, self._now = every_s, now

    async def run(self) -> None:
        """Compare agents and processes every `every_s` seconds, until cancelled."""
        while True:
            try:
                if self._processes.owner:
                    await self.look()
            except Fault as error:
                log.warning("comparison of agents with processes failed", error=str(error))
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Compare agents and processes once, and stop the processes of agents that must not run."""
        there = await self._workers.all()
        async with self._database.reading() as tx:
            mine = await ownership.kept(tx, self._processes.owner)
            strays = await ownership.strays(tx, list(there))
            known = await cleanups.known(tx, list(there))
        self._processes.claimed([agent_id for agent_id in mine if not self._processes.keeps(agent_id)])
        for agent_id in mine:
            newest = max(there.get(agent_id, ()), key=lambda process: process.launch, default=None)
            if newest is None or not newest.running or len(there[agent_id]) > 1:
                self._processes.look_at(agent_id)
        for agent_id in strays:
            for process in there[agent_id]:
                if process.running:
                    log.warning("unwanted process stopped", agent_id=agent_id, launch=process.launch, pid=process.pid)
                    await self._workers.stop(agent_id, process.launch, 0)
        await self._owe({agent_id: found for agent_id, found in there.items() if agent_id not in known})
        await self._look_at_graves(there, {one: launch for one, launch in known.items() if launch is not None})

    async def _look_at_graves(self, there: There, newest: Mapping[str, int]) -> None:
        """Find processes that deleted agents have left, and the shim's records of such processes.

        The record of the newest launch is kept for a time, so that a delayed request for this launch starts no process.
        """
        clean = {one for one in newest if [newest[one]] == [process.launch for process in there[one]]}
        disturbed = {one for one in newest if one not in clean or there[one][0].running}
        await self._owe({one: there[one] for one in disturbed})
        for agent_id in clean - disturbed:
            (left,) = there[agent_id]
            if left.ended_at is not None and left.ended_at < self._now() - REMEMBERED:
                await self._workers.forget(agent_id, left.launch)

    async def _owe(self, there: There) -> None:
        if not there:
            return
        log.warning("processes left by deleted agents found", agents=sorted(there))
        async with self._database.begin() as tx:
            await cleanups.owe(tx, {one: max(process.launch for process in found) for one, found in there.items()})
