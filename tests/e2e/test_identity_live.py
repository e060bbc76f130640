"""Credentials in a whole stack: of an agent, of an observer and of an operator."""

import asyncio
from pathlib import Path

import pytest

from muster.common.agent_credentials.authority import AgentAuthority
from muster.common.bus.connection import Incoming, open_bus
from muster.common.contract import decode
from muster.common.contracts.agent_health import GetAgentStatus
from muster.common.contracts.agent_lifecycle import StartAgent, StopAgent
from muster.common.contracts.agent_process import AgentStatusTold
from muster.common.contracts.agent_registry import RegisterAgent
from muster.common.faults import TimedOut
from muster.common.ids import new_id
from muster.embedded.nats_authority import NatsAuthority
from tests.support.eventually import eventually
from tests.support.identity import authority_of, is_let_in
from tests.support.patience import PATIENCE_S
from tests.support.whole_stack import WholeStack


class Told:
    """The agent events that the manager publishes and the test receives."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        self._changed = asyncio.Condition()

    async def hear(self, message: Incoming) -> None:
        told = decode(message.data, AgentStatusTold)
        async with self._changed:
            self._last[told.agent_id] = told.status
            self._changed.notify_all()

    async def until(self, agent_id: str, *states: str) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self._last.get(agent_id) in states)


VARIABLES = {
    *("AGENT_ID", "AGENT_NAME", "AGENT_TYPE", "AGENT_VERSION", "NATS_URL"),
    *("HOME", "LANG", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONUNBUFFERED", "TZ"),
}
"""Nothing of the one who started the stack gets any further, not even what only measures it."""


async def test_agent_with_credentials_is_visible_to_an_observer_and_stopped_by_an_operator(
    whole: WholeStack,
) -> None:
    stack = whole.stack
    people, agent_id, told = stack.data_dir / "identity" / "creds", new_id("agt"), Told()
    async with (
        open_bus(stack.nats_url, "observer", credentials=people / "observer.creds") as observer,
        open_bus(stack.nats_url, "operator", credentials=people / "operator.creds") as operator,
    ):
        await observer.subscribe(AgentStatusTold.SUBJECT, told.hear)
        await observer.flush()
        await operator.request(RegisterAgent(agent_id=agent_id, name="live", package="echo"), timeout_s=PATIENCE_S)
        await operator.request(StartAgent(agent_id=agent_id, command_id="first"), timeout_s=PATIENCE_S)
        await told.until(agent_id, "idle", "running")

        status = await observer.request(GetAgentStatus(agent_id=agent_id), timeout_s=PATIENCE_S)
        assert status.asked == "answered"
        environment = Path(f"/proc/{status.pid}/environ").read_bytes().decode()
        assert {variable.partition("=")[0] for variable in environment.split("\0")} - {""} == VARIABLES
        assert f"NATS_URL={stack.nats_url}\0" in environment
        assert not [word for word in ("SEED", "JWT", "creds", "eyJ") if word in environment]

        with pytest.raises(TimedOut):  # The server drops messages that an observer may not publish.
            await observer.request(StopAgent(agent_id=agent_id, command_id="not-mine"), timeout_s=1)
        assert (await observer.request(GetAgentStatus(agent_id=agent_id), timeout_s=PATIENCE_S)).desired == "running"

        authority = AgentAuthority(authority_of(NatsAuthority(stack.data_dir / "identity"), stack.nats_url))
        stolen = authority.mint(agent_id, 1, 600.0)  # The same credentials as at its launch.
        assert await is_let_in(stack.nats_url, stolen)
        await operator.request(StopAgent(agent_id=agent_id, command_id="second"), timeout_s=PATIENCE_S)
        await told.until(agent_id, "stopped")
        await eventually(lambda: is_let_in(stack.nats_url, stolen), lambda let_in: not let_in)
