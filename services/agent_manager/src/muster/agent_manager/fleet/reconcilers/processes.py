"""Reconciles agents in process mode that this manager owns: step by step, until the actual state is the desired one."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Protocol

import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.adapters.shim import AgentProcesses
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.lifecycle import AgentFacts, CleanUpDeleted, NothingToDo, WaitForRestart, decide
from muster.agent_manager.fleet.reconcilers.launches import Launcher
from muster.agent_manager.fleet.store import ownership
from muster.agent_manager.fleet.store.ownership import OwnershipLost
from muster.common.clock import Clock
from muster.common.faults import Fault

log = structlog.get_logger()

FOREVER = float("inf")


class ProcessObserver(Protocol):
    """A part that follows running processes: heartbeats, output, or renewals."""

    def keep(self, agent: AgentRecord) -> None:
        """The process runs, and this manager owns the agent."""
        ...

    def end(self, agent: AgentRecord) -> bool:
        """The process does not run. Returns whether everything that it left is stored; called again until it is."""
        ...

    def forget(self, agent_id: str) -> None:
        """Another manager owns the agent."""
        ...


class ProcessReconciler:
    """Reconciles the agents that this manager owns. `owner` is the present lease, empty while there is none."""

    def __init__(
        self,
        database: ManagerDatabase,
        launcher: Launcher,
        workers: AgentProcesses,
        *,
        keepers: Sequence[ProcessObserver],
        waker: asyncio.Event,
        now: Clock,
    ) -> None:
        self._database, self._launcher, self._workers = database, launcher, workers
        self._keepers, self._waker, self._now = keepers, waker, now
        self.owner = ""
        self._mine: set[str] = set()
        self._news: set[str] = set()
        self._taken: set[str] = set()
        """Agents just taken: their previous owner may have died before it revoked credentials of ended launches.
        """
        self._fresh: set[str] = set()
        """Agents with news that `find` has not returned yet."""
        self._later: dict[str, tuple[int, float]] = {}
        """For each agent the version at which no step is due before a time."""

    def begin(self, owner: str) -> None:
        """Use this lease from now on. Agents that were owned under another lease are dropped."""
        for agent_id in self._mine:
            self._forget(agent_id)
        self.owner = owner
        self._mine.clear()
        self._taken.clear()
        self._news.clear()
        self._fresh.clear()
        self._later.clear()

    def claimed(self, agent_ids: Sequence[str]) -> None:
        """Add agents that this manager has taken."""
        self._mine.update(agent_ids)
        self._taken.update(agent_ids)
        for agent_id in agent_ids:
            self.look_at(agent_id)

    def keeps(self, agent_id: str) -> bool:
        """Return whether this manager knows that it owns the agent."""
        return agent_id in self._mine

    def look_at(self, agent_id: str) -> None:
        """Look at an agent soon, if this manager owns it."""
        if agent_id in self._mine:
            self._news.add(agent_id)
            self._fresh.add(agent_id)
            self._waker.set()

    async def find(self) -> list[str]:
        """Return the agents for which a step may be due, and those with news."""
        if not self.owner:
            return []
        if self._fresh:  # news does not wait for the database; `act` reads it next
            fresh, self._fresh = self._fresh, set()
            self._waker.set()
            return list(fresh)
        async with self._database.reading() as tx:
            found = await ownership.unsettled(tx, self.owner)
        now_s = asyncio.get_running_loop().time()
        owed = [
            agent_id
            for agent_id, version in found
            if agent_id in self._mine and not self._is_later(agent_id, version, now_s)
        ]
        return list(dict.fromkeys([*self._news, *owed]))

    async def act(self, agent_id: str) -> None:
        """Run steps until none is due now."""
        self._news.discard(agent_id)
        if agent_id not in self._mine:
            return  # it was let go of after `find` had returned it
        owner = self.owner
        try:
            while True:
                agent, facts = await self._launcher.look(agent_id, owner)
                if agent_id in self._taken:
                    await self._launcher.disarm(agent, living=True)
                    self._taken.discard(agent_id)
                match decide(facts, self._now()):
                    case NothingToDo():
                        await self._rest(agent, facts, owner)
                        return
                    case WaitForRestart(until):
                        self._left(agent)
                        self._wait(agent, (until - self._now()).total_seconds())
                        return
                    case CleanUpDeleted() if not self._left(
                        agent
                    ):  # store its last output first, and let it print no more meanwhile
                        self._wait(agent, FOREVER)
                        await self._launcher.disarm(agent)
                        return
                    case step:
                        await self._launcher.take(agent, facts, step, owner)
        except OwnershipLost as fenced:
            log.warning("agent owned by another manager", agent_id=agent_id, error=str(fenced))
            self._mine.discard(agent_id)
            self._forget(agent_id)
        except Exception:
            self._news.add(agent_id)
            raise

    async def follow_exits(self) -> None:
        """Look at an agent at once when its process ends, until cancelled."""
        async with aclosing(self._workers.exits()) as exits:
            async for agent_id in exits:
                self.look_at(agent_id)

    async def _rest(self, agent: AgentRecord, facts: AgentFacts, owner: str) -> None:
        if any(process.running for process in facts.processes):
            self._later.pop(agent.agent_id, None)
            for keeper in self._keepers:
                keeper.keep(agent)
            return
        if self._left(agent) and (agent.desired == "stopped" or agent.mode != "process"):
            await self._release(agent.agent_id, owner)
        else:
            self._wait(agent, FOREVER)

    async def _release(self, agent_id: str, owner: str) -> None:
        """Drop the agent before the release is stored: afterwards this manager may take the agent again at once."""
        self._mine.discard(agent_id)
        self._forget(agent_id)
        try:
            async with self._database.begin() as tx:
                await ownership.release(tx, await ownership.lock(tx, agent_id, owner))
        except Fault:
            if self.owner == owner:
                self.claimed([agent_id])
            raise

    def _left(self, agent: AgentRecord) -> bool:
        """Return whether every observer has stored what the process left.

        An observer that has not wakes this loop later.
        """
        taken_in = [
            keeper.end(agent) for keeper in self._keepers
        ]  # every observer is asked, whatever the others answer
        return all(taken_in)

    def _wait(self, agent: AgentRecord, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._later[agent.agent_id] = (agent.version, loop.time() + delay_s)
        if delay_s != FOREVER:
            loop.call_later(max(0.0, delay_s), self._waker.set)

    def _is_later(self, agent_id: str, version: int, now_s: float) -> bool:
        until = self._later.get(agent_id)
        return until is not None and until[0] == version and now_s < until[1]

    def _forget(self, agent_id: str) -> None:
        self._later.pop(agent_id, None)
        self._news.discard(agent_id)
        self._fresh.discard(agent_id)
        self._taken.discard(agent_id)
        for keeper in self._keepers:
            keeper.forget(agent_id)
