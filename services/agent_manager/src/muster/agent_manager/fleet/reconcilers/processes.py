"""Brings agents in process mode to their desired state, one step at a time, for the agents that this manager owns."""

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
    """An object that must know which agents of this manager run, for example to renew their credentials."""

    def keep(self, agent: AgentRecord) -> None:
        """Begin to observe an agent whose process runs and that this manager owns."""
        ...

    def end(self, agent: AgentRecord) -> bool:
        """Stop observing a process that has ended; return whether its remaining output is stored.

        The reconciler calls this again until the result is True.
        """
        ...

    def forget(self, agent_id: str) -> None:
        """Stop observing an agent that another manager owns."""
        ...


class ProcessReconciler:
    """Brings each agent that this manager owns to its desired state. `owner` is this manager's lease id, or empty."""

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
        """Agents just taken: their last owner may have died before it revoked credentials of ended launches."""
        self._fresh: set[str] = set()
        """Agents that changed, and that `find` has not returned yet."""
        self._later: dict[str, tuple[int, float]] = {}
        """For each agent, a version at which no step is needed before the given time."""

    def begin(self, owner: str) -> None:
        """Use the lease with the id `owner` from now on. Forget the agents that were owned under another lease."""
        for agent_id in self._mine:
            self._forget(agent_id)
        self.owner = owner
        self._mine.clear()
        self._taken.clear()
        self._news.clear()
        self._fresh.clear()
        self._later.clear()

    def claimed(self, agent_ids: Sequence[str]) -> None:
        """Add agents that this manager has taken, and reconcile them soon."""
        self._mine.update(agent_ids)
        self._taken.update(agent_ids)
        for agent_id in agent_ids:
            self.look_at(agent_id)

    def keeps(self, agent_id: str) -> bool:
        """Return whether this manager owns the agent, as far as this process knows."""
        return agent_id in self._mine

    def look_at(self, agent_id: str) -> None:
        """Reconcile an agent soon, if this manager owns the agent."""
        if agent_id in self._mine:
            self._news.add(agent_id)
            self._fresh.add(agent_id)
            self._waker.set()

    async def find(self) -> list[str]:
        """Return the ids of agents that have changed or that may need a step."""
        if not self.owner:
            return []
        if self._fresh:  # Agents that have just changed are known by id, so no query is needed to find them.
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
        """Run steps for one agent until no step is needed now."""
        self._news.discard(agent_id)
        if agent_id not in self._mine:
            return  # This manager released the agent after `find` had returned it.
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
                    case CleanUpDeleted() if not self._left(agent):
                        # The clean-up deletes output, so it waits until all output is stored. The credentials of the
                        # deleted agent are revoked at once.
                        self._wait(agent, FOREVER)
                        await self._launcher.disarm(agent)
                        return
                    case step:
                        await self._launcher.take(agent, facts, step, owner)
        except OwnershipLost as fenced:
            log.warning("agent was taken over by another manager", agent_id=agent_id, error=str(fenced))
            self._mine.discard(agent_id)
            self._forget(agent_id)
        except Exception:
            self._news.add(agent_id)
            raise

    async def follow_exits(self) -> None:
        """Reconcile each agent as soon as its process ends, until cancelled."""
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
        """Forget an agent, then store that it has no owner.

        As soon as this is stored, this manager may take the agent again, so the agent must be forgotten before.
        """
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
        """Return whether every observer has stored the remaining output of a process that has ended.

        An observer that needs more time wakes this loop later.
        """
        # A list and not a generator, so that every observer is called even if an earlier one returns False.
        taken_in = [keeper.end(agent) for keeper in self._keepers]
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
