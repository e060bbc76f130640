"""Receives heartbeats and metrics of agents in process mode, and stores the states that follow from them."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec
import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.adapters.agents import AgentClient
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.heartbeats import HeartbeatBounds, said, silent, why
from muster.agent_manager.fleet.domain.lifecycle import AGENT_STEPS
from muster.agent_manager.fleet.reconcilers.processes import ProcessReconciler
from muster.agent_manager.fleet.store import ownership, states
from muster.agent_manager.fleet.store.ownership import OwnershipLost
from muster.agent_manager.fleet.store.states import StoredHeartbeat
from muster.common.bus.connection import Bus, Incoming
from muster.common.contract import decode
from muster.common.contracts.agent_process import AgentBeat, AgentMeasured
from muster.common.contracts.agents import AgentState
from muster.common.faults import Fault, InvalidMessage

log = structlog.get_logger()

FLUSH_EVERY_S = 2.0
"""Seconds between writes of heartbeats. One statement stores those of all agents, for example ten thousand."""
TICK_S = 0.5
SET_ASIDE_S = 30.0
"""Seconds without writes for an agent whose heartbeat caused a bug, to spare other agents and the log."""
AT_ONCE = 16
SPEAKS_FOR = frozenset[AgentState]({"starting", "running", "idle", "degraded", "unresponsive", "inactive"})
"""States that a heartbeat may change. In other states heartbeats change nothing, for example while an agent stops."""


class HeartbeatState:
    """The last heartbeat of one running agent: the heartbeat's number and arrival time, and the agent's state.

    `heard_s` is a time of the event loop, not of a wall clock.
    """

    __slots__ = ("aside_until_s", "due_s", "heard_s", "last", "launch", "n", "state")

    def __init__(self, launch: int, state: AgentState, heard_s: float) -> None:
        self.launch, self.state, self.heard_s = launch, state, heard_s
        self.n = 0
        self.due_s = 0.0
        self.aside_until_s = float("-inf")
        self.last: AgentState | None = None


class HeartbeatMonitor:
    """Sets the states of running agents from their heartbeats, and from silence while NATS was reachable."""

    def __init__(self, bus: Bus, database: ManagerDatabase, agents: AgentClient, *, bounds: HeartbeatBounds) -> None:
        self._bus, self._database, self._agents, self._bounds = bus, database, agents, bounds
        self.processes: ProcessReconciler | None = None
        """The loop that knows this manager's lease; it is set when all parts exist."""
        self._pulses: dict[str, HeartbeatState] = {}
        self._seen: dict[str, StoredHeartbeat] = {}
        self._changed: dict[str, tuple[AgentState, str]] = {}
        self._wake = asyncio.Event()

    def keep(self, agent: AgentRecord) -> None:
        """Accept heartbeats of the agent's present launch from now on, and of no other launch of the agent."""
        pulse = self._pulses.get(agent.agent_id)
        if pulse is None or pulse.launch != agent.launch:
            pulse = self._pulses[agent.agent_id] = HeartbeatState(agent.launch, agent.state, self._now_s())
            if agent.state in ("running", "idle"):  # The agent ran before this manager took it over.
                pulse.last = agent.state
        pulse.state = agent.state

    def end(self, agent: AgentRecord) -> bool:
        """Ignore heartbeats of an agent whose process has ended."""
        self.forget(agent.agent_id)
        return True

    def forget(self, agent_id: str) -> None:
        """Ignore heartbeats of an agent that another manager owns."""
        self._pulses.pop(agent_id, None)
        self._seen.pop(agent_id, None)
        self._changed.pop(agent_id, None)

    async def run(self) -> None:
        """Receive heartbeats, and check for silent agents every 0.5 s, until cancelled."""
        self._bus.on_reconnect(self._start_again)
        async with self._agents.listening(self._on_beat, self._on_metrics), asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_states())
            tasks.create_task(self._write_seen())
            while True:
                await asyncio.sleep(TICK_S)
                self._look_for_silence()

    async def _on_beat(self, message: Incoming) -> None:
        agent_id = message.subject.split(".")[1]
        if (pulse := self._pulses.get(agent_id)) is None:
            return
        try:
            beat = decode(message.data, AgentBeat)
        except InvalidMessage as fault:
            log.info("agent heartbeat could not be decoded", agent_id=agent_id, error=str(fault))
            return
        if beat.agent_id != agent_id or beat.launch != pulse.launch or beat.n <= pulse.n:
            return
        pulse.n, pulse.heard_s, pulse.due_s = beat.n, self._now_s(), beat.next_within_s
        pulse.last = said(beat.beat, pulse.last)
        self._see(agent_id, at=self._bus.now(), beat=msgspec.to_builtins(beat.beat))
        self._change(agent_id, pulse, pulse.last, f"beat#{beat.n}")

    async def _on_metrics(self, message: Incoming) -> None:
        agent_id = message.subject.split(".")[1]
        if (pulse := self._pulses.get(agent_id)) is None:
            return
        try:
            measured = decode(message.data, AgentMeasured)
        except InvalidMessage as fault:
            log.info("agent metrics could not be decoded", agent_id=agent_id, error=str(fault))
            return
        if measured.agent_id != agent_id or measured.launch != pulse.launch:
            return
        self._see(agent_id, metrics=measured.metrics, metrics_at=self._bus.now())
        await self._agents.tell_metrics(measured)

    def _look_for_silence(self) -> None:
        if not self._bus.connected.is_set():
            return
        now_s = self._now_s()
        for agent_id, pulse in self._pulses.items():
            silence_s = now_s - pulse.heard_s
            if state := silent(silence_s, pulse.last, pulse.due_s, self._bounds):
                self._change(agent_id, pulse, state, f"beat#{pulse.n}")

    def _start_again(self) -> None:
        """Give every agent a full TTL after a reconnection: while NATS was unreachable, no heartbeat could arrive."""
        for pulse in self._pulses.values():
            pulse.heard_s = self._now_s()

    def _see(self, agent_id: str, **fields: object) -> None:
        if self._is_aside(agent_id):
            return
        seen = self._seen.get(agent_id) or StoredHeartbeat(agent_id=agent_id)
        self._seen[agent_id] = msgspec.structs.replace(seen, **fields)

    def _change(self, agent_id: str, pulse: HeartbeatState, to: AgentState, cites: str) -> None:
        if pulse.state != to and pulse.state in SPEAKS_FOR and not self._is_aside(agent_id):
            self._changed[agent_id] = (to, cites)
            self._wake.set()
        else:
            self._changed.pop(agent_id, None)

    async def _write_states(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            changed = list(self._changed.items())[:AT_ONCE]
            async with asyncio.TaskGroup() as tasks:
                for agent_id, (to, cites) in changed:
                    tasks.create_task(self._write_state(agent_id, to, cites))
            if self._changed:
                self._wake.set()

    async def _write_state(self, agent_id: str, to: AgentState, cites: str) -> None:
        """Store the state of an agent. Never raises: after a failure the next heartbeat or check stores the state."""
        pulse = self._pulses.get(agent_id)
        self._changed.pop(agent_id, None)
        if pulse is None or self.processes is None:
            return
        try:
            async with self._database.begin() as tx:
                agent = await ownership.lock(tx, agent_id, self.processes.owner)
                pulse.state = agent.state
                if agent.launch != pulse.launch or agent.state not in SPEAKS_FOR or not _leads(agent.state, to):
                    return
                at: dict[str, datetime] = {} if to not in ("running", "idle") else {"last_seen": tx.now}
                agent = await states.go(tx, agent, to, cites=cites, reason=why(to, self._bounds), **at)
        except OwnershipLost:
            self.forget(agent_id)
        except Fault as error:
            log.warning("agent state not stored", agent_id=agent_id, state=to, error=str(error))
        except Exception:
            # PostgreSQL refused a value, or there is another bug. The agent chose the value, so an error here must not
            # end the loop that stores the states of all other agents.
            log.exception("agent state refused by the database", agent_id=agent_id, state=to)
            self._set_aside(agent_id)
        else:
            pulse.state = to
            await self._agents.tell_state(agent)

    async def _write_seen(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            seen, self._seen = list(self._seen.values()), {}
            if not seen or self.processes is None:
                continue
            await self._store_seen(self.processes.owner, seen)

    async def _store_seen(self, owner: str, seen: Sequence[StoredHeartbeat]) -> None:
        """Store heartbeats of many agents in one statement.

        Never raises. If PostgreSQL refuses a value, halving the list finds the agent that sent the value.
        """
        try:
            async with self._database.begin() as tx:
                await states.seen(tx, owner, seen)
        except Fault as error:
            log.warning("agent heartbeats not stored", beats=len(seen), error=str(error))
        except Exception:
            if len(seen) == 1:
                log.exception("agent heartbeat refused by the database", agent_id=seen[0].agent_id)
                self._set_aside(seen[0].agent_id)
                return
            half = len(seen) // 2
            await self._store_seen(owner, seen[:half])
            await self._store_seen(owner, seen[half:])

    def _set_aside(self, agent_id: str) -> None:
        if (pulse := self._pulses.get(agent_id)) is not None:
            pulse.aside_until_s = self._now_s() + SET_ASIDE_S

    def _is_aside(self, agent_id: str) -> bool:
        pulse = self._pulses.get(agent_id)
        return pulse is not None and self._now_s() < pulse.aside_until_s

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _leads(state: AgentState, to: AgentState) -> bool:
    return to != state and to in AGENT_STEPS[state]
