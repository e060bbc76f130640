"""Sends requests of the API to the other services over NATS, and checks whether the services answer."""

import asyncio
from collections.abc import Awaitable

from muster.common.bus.connection import REQUEST_DEADLINE_S, Bus
from muster.common.contract import Command
from muster.common.contracts.agent_registry import GetAgent
from muster.common.contracts.agents import AgentView
from muster.common.contracts.gateway import LOG_GONE, Verdict, VerifySandbox
from muster.common.contracts.health import PartHealth
from muster.common.contracts.tasks import GetSandboxAttempt, GetTask, TaskView
from muster.common.faults import Fault, NotFound, Unavailable

PARTS = ("agent_manager", "guardian", "sandbox_gateway")
PULSE_DEADLINE_S = 1.5
VERIFY_S = 60.0
"""Seconds for the verification of a log, for which the gateway reads all whole bodies to which the log refers."""
LONGEST_OUTAGE_WAIT_S = 1.5
"""Seconds that a request waits for a connection to NATS. A client gets its 503 within 2 s in all (invariant I10)."""


class ServiceClient:
    """Sends requests to the agent manager, the guardian and the sandbox gateway over NATS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def task(self, task_id: str) -> TaskView:
        """Return one task. Raises the errors of `ask`."""
        return await self.ask(GetTask(task_id=task_id))

    async def agent(self, agent_id: str) -> AgentView:
        """Return one agent. Raises the errors of `ask`."""
        return await self.ask(GetAgent(agent_id=agent_id))

    @property
    def reachable(self) -> bool:
        """Whether the API is connected to NATS."""
        return self._bus.connected.is_set()

    async def ask[R](self, command: Command[R], *, timeout_s: float = REQUEST_DEADLINE_S) -> R:
        """Send a request to a service and return the reply.

        Raises the `Fault` that the service answers with, or `Unavailable` or `TimedOut`.
        """
        if not self.reachable:
            await self._reached()
        return await self._bus.request(command, timeout_s=timeout_s)

    async def verdict(self, sandbox_id: str) -> Verdict:
        """Have the gateway verify the log of a sandbox, and return the verdict.

        A lost log is a fault in the verdict, also if only the agent manager knows the sandbox. Raises the errors of
        `ask`, and `NotFound` if nothing shows that the sandbox had a log.
        """
        try:
            return await self.ask(VerifySandbox(sandbox_id=sandbox_id), timeout_s=VERIFY_S)
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

    async def _reached(self) -> None:
        try:
            async with asyncio.timeout(LONGEST_OUTAGE_WAIT_S):
                await self._bus.connected.wait()
        except TimeoutError:
            raise Unavailable("the API is not connected to NATS; check that NATS is running") from None

    async def pulses(self) -> dict[str, PartHealth]:
        """Return the state of NATS and of each service. All of them are pinged at the same time."""
        asked = (pulse(self._bus.call(f"$SRV.PING.{part}", b"", timeout_s=PULSE_DEADLINE_S)) for part in PARTS)
        nats, found = await asyncio.gather(self.server(), asyncio.gather(*asked))
        return nats | dict(zip(PARTS, found, strict=True))

    async def server(self) -> dict[str, PartHealth]:
        """Return the state of NATS.

        A round trip is made, because a server that hangs keeps its connections open.
        """
        if not self.reachable:
            return {"nats": PartHealth(status="down", detail="no connection")}
        return {"nats": await pulse(self._bus.flush())}


async def pulse(answering: Awaitable[object]) -> PartHealth:
    """Await an answer, and return the state `ok` with the delay of the answer in seconds.

    Returns the state `down` if the answer is an error or does not arrive in time.
    """
    now = asyncio.get_running_loop().time
    began = now()
    try:
        async with asyncio.timeout(PULSE_DEADLINE_S):
            await answering
    except (Fault, TimeoutError) as error:
        return PartHealth(status="down", detail=str(error) or "no answer in time")
    return PartHealth(status="ok", seconds=round(now() - began, 6))
