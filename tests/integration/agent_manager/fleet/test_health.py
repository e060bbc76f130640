"""The manager handles heartbeats, silence, metrics and replies of agents. The test sends the agents' messages."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from muster.common.bus.connection import Incoming
from muster.common.clock import utc_now
from muster.common.contract import decode, encode
from muster.common.contracts.agent_health import GetAgentMetrics, GetAgentStatus
from muster.common.contracts.agent_messages import MessageAgent
from muster.common.contracts.agent_process import (
    AgentBeat,
    AgentMeasured,
    AgentMetricsTold,
    AgentOrder,
    AgentResponse,
    AgentStatusTold,
)
from muster.common.contracts.agents import AgentView
from muster.common.contracts.worker_api import Beat
from muster.common.faults import Conflict, Unavailable
from muster.common.ids import new_id
from tests.support.eventually import eventually
from tests.support.process_agents import AgentPlace, agent_place, write_package

SLEEPER = "import time; time.sleep(1000)"
QUICK: dict[str, Any] = {"beat_ttl_running_s": 1.5, "beat_ttl_idle_s": 3.0, "inactive_after_s": 4.0}


@pytest.fixture
async def place(nats_url: str, manager_database_url: str, tmp_path: Path) -> AsyncIterator[AgentPlace]:
    async with agent_place(nats_url, manager_database_url, tmp_path, **QUICK) as place:
        write_package(place.packages, "sleeper", SLEEPER)
        yield place


def beat(view: AgentView, n: int, state: Any = "running", *, launch: int | None = None, **fields: Any) -> AgentBeat:
    said = Beat(state=state, busy="none", since=utc_now(), events=0, acked=0, epoch=view.launch)
    told: dict[str, Any] = {
        "agent_id": view.agent_id,
        "launch": launch or view.launch,
        "n": n,
        "beat": said,
        "next_within_s": 0.5,
    }
    return AgentBeat(**{**told, **fields})


@asynccontextmanager
async def answering_for(
    place: AgentPlace, agent_id: str, kind: str, response: dict[str, Any]
) -> AsyncGenerator[list[bytes]]:
    """Answer the manager's requests as the agent; yield the list of requests."""
    asked = list[bytes]()

    async def answer(message: Incoming) -> None:
        asked.append(message.data)
        fields: dict[str, Any] = {
            "command": "x",
            "agent_id": agent_id,
            "result": None,
            "error": None,
            "timestamp": utc_now(),
        }
        await place.bus.send(message.reply, encode(AgentResponse(**{**fields, **response})))

    subscription = await place.bus.subscribe(f"agent.{agent_id}.{kind}", answer)
    await place.bus.flush()
    try:
        yield asked
    finally:
        await subscription.unsubscribe()


async def test_heartbeats_and_silence_change_the_state_and_each_change_cites_its_evidence(
    place: AgentPlace,
) -> None:
    told = list[AgentStatusTold]()

    async def hear(message: Incoming) -> None:
        told.append(decode(message.data, AgentStatusTold))

    async with place.manager():
        await place.bus.subscribe("agent.status", hear)
        view = await place.started("sleeper")
        await place.bus.publish(beat(view, 1, "idle"))
        idle = await place.until_state(view.agent_id, "idle")
        await place.bus.publish(beat(view, 2))
        await place.until_state(view.agent_id, "running")
        silent = await place.until_state(view.agent_id, "inactive")
        await place.bus.publish(beat(view, 3))
        back = await place.until_state(view.agent_id, "running")
        await eventually(lambda: _async(len(told) >= 7))

    assert idle.cites == "beat#1"
    assert idle.last_seen
    assert (silent.cites, silent.pid, silent.desired) == ("beat#2", view.pid, "running"), "its process is there"
    assert silent.last_seen
    assert silent.last_seen > idle.last_seen
    assert (silent.reason, back.reason) == ("it has sent no heartbeat for 4 s", None)
    assert back.cites == "beat#3"
    states = [one.status for one in told if one.agent_id == view.agent_id]
    assert states == ["starting", "idle", "running", "degraded", "unresponsive", "inactive", "running"]


async def test_agent_that_has_not_started_stays_in_state_starting(place: AgentPlace) -> None:
    async with place.manager(inactive_after_s=60.0):
        view = await place.started("sleeper")
        await place.bus.publish(beat(view, 1, "waiting", next_within_s=1.5))
        alive = await place.until(view.agent_id, lambda now: now.last_seen is not None)
        await place.bus.publish(beat(view, 2, "stopping"))
        await place.bus.publish(beat(view, 3, "idle"))
        idle = await place.until_state(view.agent_id, "idle")

    assert alive.state == "starting"
    assert idle.cites == "beat#3"


async def test_heartbeat_of_another_agent_or_an_earlier_launch_is_ignored(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("sleeper")
        other = await place.started("sleeper")
        forged = encode(beat(view, 7, agent_id=other.agent_id))
        await place.bus.send(f"agent.{view.agent_id}.status", forged)
        await place.bus.send(f"agent.{view.agent_id}.status", b"not json")
        await place.bus.publish(beat(view, 9, launch=view.launch + 1))
        await place.bus.publish(beat(view, 2, "idle"))
        await place.until_state(view.agent_id, "idle")
        await place.bus.publish(beat(view, 1))  # This heartbeat is late, so the second one counts.
        await place.bus.publish(beat(other, 1, "idle"))
        await place.until_state(other.agent_id, "idle")
        seen = await place.get(view.agent_id)

    assert (seen.state, seen.cites) == ("idle", "beat#2")


async def test_metrics_are_stored_forwarded_and_counted(place: AgentPlace) -> None:
    told = list[AgentMetricsTold]()

    async def hear(message: Incoming) -> None:
        told.append(decode(message.data, AgentMetricsTold))

    async with place.manager():
        view = await place.started("sleeper")
        await place.bus.subscribe("agent.metrics", hear)
        measured = AgentMeasured(
            agent_id=view.agent_id, launch=view.launch, at=utc_now(), metrics={"rss_bytes": 5.0, "a\0b": 1.0}
        )
        await place.bus.publish(measured)
        query = GetAgentMetrics(agent_id=view.agent_id)

        async def stored() -> bool:
            return (await place.bus.request(query, timeout_s=30)).at is not None

        await eventually(stored)
        numbers = await place.bus.request(query, timeout_s=30)

    assert numbers.metrics == {"rss_bytes": 5.0, "a\N{REPLACEMENT CHARACTER}b": 1.0}  # PostgreSQL cannot store NUL.
    assert (numbers.counted["launches"], numbers.counted["restarts"], numbers.counted["tasks"]) == (1.0, 0.0, 0.0)
    assert numbers.counted["uptime_s"] > 0
    assert [one.metrics for one in told if one.agent_id == view.agent_id] == [measured.metrics]


async def test_status_contains_the_agents_reply_or_says_that_there_is_none(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("sleeper")
        await place.bus.publish(beat(view, 1, "idle"))
        await place.until_state(view.agent_id, "idle")
        query = GetAgentStatus(agent_id=view.agent_id)
        async with answering_for(place, view.agent_id, "query", {"status": "success", "result": {"ok": True}}) as asked:
            answered = await place.bus.request(query, timeout_s=30)
        mute = await place.bus.request(query, timeout_s=30)
        await place.stop(view.agent_id)
        await place.until_state(view.agent_id, "stopped")
        stopped = await place.bus.request(query, timeout_s=30)

    assert (answered.asked, answered.health, answered.cites) == ("answered", {"ok": True}, "beat#1")
    assert b'"health"' in asked[0]
    assert (mute.asked, mute.health) == ("no_answer", None)
    assert (stopped.asked, stopped.state, stopped.exit_code) == ("not_running", "stopped", 143)


async def test_agent_accepts_or_refuses_a_message(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("sleeper")
        command = MessageAgent(agent_id=view.agent_id, message_id=new_id("msg"), text="hello")
        async with answering_for(
            place, view.agent_id, "command", {"status": "success", "result": {"echo": "hello"}}
        ) as asked:
            handed = await place.bus.request(command, timeout_s=30)
        refusal = {"status": "error", "error": {"code": "busy", "detail": "not now"}}
        async with answering_for(place, view.agent_id, "command", refusal):
            with pytest.raises(Conflict, match="not now"):
                await place.bus.request(command, timeout_s=30)
        with pytest.raises(Unavailable, match="does not receive commands now"):
            await place.bus.request(command, timeout_s=30)

    assert handed.agent == {"echo": "hello"}
    order = decode(asked[0], AgentOrder)
    assert (order.command, order.launch, order.params["text"]) == ("message", 1, "hello")


async def test_outage_of_nats_marks_no_agent_unresponsive(place: AgentPlace) -> None:
    """The test cuts the manager's connection. While the manager is not connected, no agent's silence is counted."""
    async with place.manager():
        view = await place.started("sleeper")
        await place.bus.publish(beat(view, 1, "idle"))
        await place.until_state(view.agent_id, "idle")
        place.bus.connected.clear()
        await asyncio.sleep(5)  # This is longer than every allowed silence.
        held = await place.database_state(view.agent_id)
        place.bus.reconnected()
        await place.bus.publish(beat(view, 2, "idle"))
        after = await place.get(view.agent_id)

    assert held == "idle"
    assert after.state == "idle"


async def _async(value: bool) -> bool:
    return value
