"""Clients that wait for an agent's output on the generic subject do not delay the queries of other clients."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from muster.agent_manager.fleet.handlers import generic_subjects
from muster.agent_manager.fleet.store.agents import default_id
from muster.agent_manager.fleet.store.logs import AgentLogs
from muster.agent_manager.service import answering
from muster.common.bus.connection import Incoming
from muster.common.bus.message_store import MessageStore
from muster.common.clock import utc_now
from muster.common.contracts.agent_logs import AgentOutput, LoggedLine
from muster.common.contracts.agent_registry import ListAgents
from tests.support.eventually import eventually
from tests.support.managed import Place, open_place

AGENT = default_id("echo")


@pytest.fixture
async def place(nats_url: str, manager_database_url: str) -> AsyncIterator[Place]:
    async with open_place(nats_url, manager_database_url) as place:
        yield place


def query(command: str, **params: Any) -> bytes:
    return msgspec.json.encode({"command": command, "agent_id": AGENT, "params": params})


class Waiting:
    """Log reads that wait for a line, with their replies."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.answers = list[dict[str, Any]]()

    async def send(self, times: int) -> None:
        tail = await AgentLogs(self._place.bus, MessageStore(self._place.bus)).last(AGENT, 1)
        inbox = self._place.bus.inbox()
        await self._place.bus.subscribe(inbox, self._hear)
        body = query("logs", cursor=tail[1].written(), wait_s=25)
        for _ in range(times):
            await self._place.bus.send("agent.manager.query", body, reply=inbox)

    async def end(self, answers: int) -> None:
        """Store a line, which ends every waiting read."""
        logs, at = AgentLogs(self._place.bus, MessageStore(self._place.bus)), utc_now()
        tail = await logs.tail(AGENT)
        line = LoggedLine(n=1, at=at, text="at last")
        frame = AgentOutput(agent_id=AGENT, launch=1, lines=[line], next_offset=8)
        await logs.append(frame, last=tail.stored if tail else 0)
        await eventually(lambda: len(self.answers) >= answers)

    async def _hear(self, message: Incoming) -> None:
        self.answers.append(msgspec.json.decode(message.data))


async def test_clients_that_wait_for_lines_delay_no_other_query(place: Place) -> None:
    async with answering(place.bus, place.database, place.settings, place.catalogue):
        waiting = Waiting(place)
        await waiting.send(70)
        try:
            listed = msgspec.json.decode((await place.bus.call("agent.manager.query", query("get"), timeout_s=15)).data)
            typed = await place.bus.request(ListAgents(), timeout_s=15)
        finally:
            await waiting.end(70)

    assert listed["result"]["agent_id"] == AGENT
    assert AGENT in [agent.agent_id for agent in typed.agents]
    assert {answer["result"]["lines"][0]["text"] for answer in waiting.answers} == {"at last"}


async def test_log_read_beyond_the_bound_is_refused_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generic_subjects, "MOST_LONG_READS", 2)
    async with answering(place.bus, place.database, place.settings, place.catalogue):
        waiting = Waiting(place)
        await waiting.send(3)
        try:
            await eventually(lambda: len(waiting.answers) == 1)
            refused = waiting.answers[0]
        finally:
            await waiting.end(3)
        again = await place.bus.call("agent.manager.query", query("logs"), timeout_s=15)
        answered = msgspec.json.decode(again.data)

    assert (refused["status"], refused["error"]["code"]) == ("error", "too_many")
    assert answered["status"] == "success"
