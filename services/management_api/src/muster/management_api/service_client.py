"""Sends requests to the other services, and checks whether they answer."""

import asyncio
from collections.abc import Awaitable, Sequence

from muster.common.bus.connection import REQUEST_DEADLINE_S, Bus
from muster.common.contract import Command
from muster.common.contracts.agent_registry import GetAgent, GetAgents
from muster.common.contracts.agents import AgentView
from muster.common.contracts.gateway import LOG_GONE, Verdict, VerifySandbox
from muster.common.contracts.health import PartHealth
from muster.common.contracts.tasks import GetSandboxAttempt, GetTask, GetTasks, TaskView
from muster.common.faults import Fault, NotFound, Unavailable
from muster.common.together import Together

PARTS = ("agent_manager", "guardian", "sandbox_gateway")
PULSE_DEADLINE_S = 1.5
LONGEST_OUTAGE_WAIT_S = 1.5
"""Seconds for a request: with NATS away a client has its 503 within 2 s (I10), everything included."""


class ServiceClient:
    """Requests to the services behind NATS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._tasks = Together(self._task, self._several_tasks)
        self._agents = Together(self._agent, self._several_agents)

    async def task(self, task_id: str) -> TaskView:
        """Return one task; requests at the same moment share one look-up. Raises the errors of `ask`."""
        return await self._tasks.one(task_id)

    async def agent(self, agent_id: str) -> AgentView:
        """Return one agent; requests at the same moment share one look-up. Raises the errors of `ask`."""
        return await self._agents.one(agent_id)

    @property
    def reachable(self) -> bool:
        """Whether there is a connection to NATS."""
        return self._bus.connected.is_set()

    async def ask[R](self, command: Command[R], *, timeout_s: float = REQUEST_DEADLINE_S) -> R:
        """Send a request and return the reply. Raises the service's `Fault`, `Unavailable` or `TimedOut`."""
        if not self.reachable:
            await self._reached()
        return await self._bus.request(command, timeout_s=timeout_s)

    async def verdict(self, sandbox_id: str) -> Verdict:
        """Return what a sandbox's log proves.

        A log that is gone is a fault, also where only the manager knows the sandbox. Raises the errors of `ask`;
        `NotFound` if nothing shows that the sandbox ever had a log.
        """
        try:
            return await self.ask(VerifySandbox(sandbox_id=sandbox_id))
        except NotFound as unknown:
            try:
                attempt = await self.ask(GetSandboxAttempt(sandbox_id=sandbox_id))
            except NotFound:
                raise unknown from None
            if attempt.opened_at is None:
                raise
        faults = [LOG_GONE]
        epoch = attempt.epoch
        return Verdict(sandbox_id=sandbox_id, ok=False, frames=0, events=0, epoch=epoch, ended=None, faults=faults)

    async def _task(self, task_id: str) -> TaskView:
        return await self.ask(GetTask(task_id=task_id))

    async def _several_tasks(self, task_ids: Sequence[str]) -> dict[str, TaskView]:
        found = await self.ask(GetTasks(task_ids=list(dict.fromkeys(task_ids))))
        return {view.task_id: view for view in found.tasks}

    async def _agent(self, agent_id: str) -> AgentView:
        return await self.ask(GetAgent(agent_id=agent_id))

    async def _several_agents(self, agent_ids: Sequence[str]) -> dict[str, AgentView]:
        found = await self.ask(GetAgents(agent_ids=list(dict.fromkeys(agent_ids))))
        return {view.agent_id: view for view in found.agents}

    async def _reached(self) -> None:
        try:
            async with asyncio.timeout(LONGEST_OUTAGE_WAIT_S):
                await self._bus.connected.wait()
        except TimeoutError:
            raise Unavailable("no connection to NATS; is it running?") from None

    async def pulses(self) -> dict[str, PartHealth]:
        """Return the state of every service, asked at the same time."""
        asked = (pulse(self._bus.call(f"$SRV.PING.{part}", b"", timeout_s=PULSE_DEADLINE_S)) for part in PARTS)
        nats, found = await asyncio.gather(self.server(), asyncio.gather(*asked))
        return nats | dict(zip(PARTS, found, strict=True))

    async def server(self) -> dict[str, PartHealth]:
        """Return the state of NATS. A server that hangs looks connected, and answers nothing."""
        if not self.reachable:
            return {"nats": PartHealth(status="down", detail="no connection")}
        return {"nats": await pulse(self._bus.flush())}


async def pulse(answering: Awaitable[object]) -> PartHealth:
    """Return how long an answer takes, or that none came in time."""
    now = asyncio.get_running_loop().time
    began = now()
    try:
        async with asyncio.timeout(PULSE_DEADLINE_S):
            await answering
    except (Fault, TimeoutError) as error:
        return PartHealth(status="down", detail=str(error) or "no answer in time")
    return PartHealth(status="ok", seconds=round(now() - began, 6))
