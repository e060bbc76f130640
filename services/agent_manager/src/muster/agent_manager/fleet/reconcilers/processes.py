"""Agents in process mode: each that this manager keeps is brought, step by step, to what is wished of it."""

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
    """Who has to do with a running process: hears its beats, stores its output, renews its leases."""

    def keep(self, agent: AgentRecord) -> None:
        """It runs, and this manager keeps it."""
        ...

    def end(self, agent: AgentRecord) -> bool:
        """It does not run; whether all that it left is taken in. Asked again until it is."""
        ...

    def forget(self, agent_id: str) -> None:
        """It is not this manager's any more."""
        ...


class ProcessReconciler:
    """A `Level` over the agents this manager keeps. `owner` is its present lease, empty while it has none."""

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
        """Ours since a moment ago: whoever had them may have died before he had disarmed what ended."""
        self._fresh: set[str] = set()
        """News that `find` has not yet told of."""
        self._later: dict[str, tuple[int, float]] = {}
        """The version at which nothing is owed before a time."""

    def begin(self, owner: str) -> None:
        """From now on under this lease; what was kept under another is not ours to touch."""
        for agent_id in self._mine:
            self._forget(agent_id)
        self.owner = owner
        self._mine.clear()
        self._taken.clear()
        self._news.clear()
        self._fresh.clear()
        self._later.clear()

    def claimed(self, agent_ids: Sequence[str]) -> None:
        """These are ours now."""
        self._mine.update(agent_ids)
        self._taken.update(agent_ids)
        for agent_id in agent_ids:
            self.look_at(agent_id)

    def keeps(self, agent_id: str) -> bool:
        """Whether we know that it is ours."""
        return agent_id in self._mine

    def look_at(self, agent_id: str) -> None:
        """Something has become of it, if it is ours."""
        if agent_id in self._mine:
            self._news.add(agent_id)
            self._fresh.add(agent_id)
            self._waker.set()

    async def find(self) -> list[str]:
        """Those of which something is known to be owed, and those of which there is news."""
        if not self.owner:
            return []
        if self._fresh:  # what has just happened does not wait for the database; it is asked right after
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
        """Step by step, until nothing is owed now."""
        self._news.discard(agent_id)
        if agent_id not in self._mine:
            return  # let go of since it was found
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
                    ):  # its last words first; but it may not speak on meanwhile
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
        """For ever: look at once at an agent whose process has ended."""
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
        """Forgotten first: once it is stored that nobody keeps it, we may be told at once that it is ours again."""
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
        """Whether everybody has taken in what it left; who has not will say when."""
        taken_in = [keeper.end(agent) for keeper in self._keepers]  # each is asked, whatever the others say
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
