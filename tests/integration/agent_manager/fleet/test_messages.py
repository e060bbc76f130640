"""Messages to agents in process mode have an outcome, also if the answer is late, or the agent fails or dies."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muster.common.contracts.agent_messages import Handed, MessageAgent, MessageError, MessageResult, message_outcome
from muster.common.contracts.agents import AgentView
from muster.common.ids import new_id
from tests.support.eventually import eventually
from tests.support.process_agents import AgentPlace, agent_place, write_package

OBEYS = """
import asyncio, os, sys, time
from muster.agent.base import Agent
from muster.agent.entry import run_agent

class Obeys(Agent):
    async def on_message(self, message):
        for word in message.text.split(","):
            match word.split():
                case ["sleep", seconds]:
                    await asyncio.sleep(float(seconds))
                case ["hold", path]:
                    while not os.path.exists(path):
                        await asyncio.sleep(0.02)
                case ["block", seconds]:
                    time.sleep(float(seconds))
                case ["raise"]:
                    raise LookupError("no such thing")
                case ["exit", code]:
                    os._exit(int(code))
                case ["long", size]:
                    return "x" * int(size)
        return f"did {message.text}"

sys.exit(run_agent(Obeys))
"""


@pytest.fixture
async def servers(nats_url: str, manager_database_url: str, tmp_path: Path) -> AsyncIterator[AgentPlace]:
    async with agent_place(nats_url, manager_database_url, tmp_path) as place:
        write_package(place.packages, "obeys", OBEYS)
        yield place


@pytest.fixture
async def place(servers: AgentPlace) -> AsyncIterator[AgentPlace]:
    async with servers.manager():
        yield servers


async def ready(place: AgentPlace) -> AgentView:
    agent_id = await place.register("obeys")
    await place.start(agent_id)
    return await place.until_state(agent_id, "idle")


async def send(place: AgentPlace, view: AgentView, text: str, message_id: str = "") -> Handed:
    command = MessageAgent(agent_id=view.agent_id, message_id=message_id or new_id("msg"), text=text)
    return await place.bus.request(command, timeout_s=30)


async def outcome(place: AgentPlace, view: AgentView, kind: str) -> MessageResult:
    """Wait for the first event of this kind; return the outcome of a message in it."""
    event = (await place.told(view.agent_id, last=kind))[-1]
    found = message_outcome(event)
    assert found
    return found


async def logged(place: AgentPlace, view: AgentView, message_id: str) -> dict[str, Any]:
    """Wait for the line of the agent's log about a message; return its fields."""
    lines = await place.lines(view.agent_id, lambda lines: any(message_id in line.text for line in lines))
    return msgspec.json.decode(next(line.text for line in lines if message_id in line.text))


async def test_late_outcomes_are_events_and_lines_of_the_log_and_quick_ones_are_replies(place: AgentPlace) -> None:
    view, released = await ready(place), place.packages / "released"
    async with asyncio.TaskGroup() as tasks:
        works = [tasks.create_task(send(place, view, f"hold {released}"))]
        await place.until_state(view.agent_id, "running")  # The other two wait for the first one.
        works += [tasks.create_task(send(place, view, text)) for text in ("raise", "long 200000")]
    released.touch()
    sent = [task.result() for task in works]
    events = await place.told(view.agent_id, last="message-answered", times=2)
    events += await place.told(view.agent_id, last="message-failed")
    told = {found.message_id: found for event in events if (found := message_outcome(event))}
    slept, raised, long = [told[one.message_id] for one in sent]

    first = {"message_id": sent[0].message_id, "state": "accepted", "answer": None}
    assert (sent[0].agent, [one.agent["state"] for one in sent]) == (first, ["accepted"] * 3)
    answered = MessageResult(message_id=sent[0].message_id, state="answered", answer=f"did hold {released}", launch=1)
    assert slept == answered
    assert (raised.state, raised.error) == (
        "failed",
        MessageError(code="agent_failed", detail="LookupError: no such thing"),
    )
    assert (long.answer_bytes, len(long.answer or "") < 140_000) == (200_000, True)
    assert str(long.answer).endswith("[cut: the answer has 200,000 bytes, of which 131,072 are kept]")
    assert (await logged(place, view, sent[0].message_id))["answer"] == f"did hold {released}"

    quick, failed = await send(place, view, "hello"), await send(place, view, "raise")
    await place.stop(view.agent_id)
    kinds = [event.kind for event in await place.told(view.agent_id, last="stopped")]
    assert quick.agent == {"message_id": quick.message_id, "state": "answered", "answer": "did hello"}
    assert (failed.agent["state"], failed.agent["error"]["detail"]) == ("failed", "LookupError: no such thing")
    assert "in on_message" in (await logged(place, view, failed.message_id))["exception"]
    assert len([kind for kind in kinds if kind.startswith("message-")]) == 3, "each late outcome is told once"


@pytest.mark.stress
async def test_answer_while_no_manager_runs_is_told_by_the_next_one(servers: AgentPlace) -> None:
    async with servers.manager():
        view = await ready(servers)
        sent = await send(servers, view, "sleep 1.6")

    async def is_answered() -> bool:
        return b"message was answered" in (await servers.shim.output(f"agt:{view.agent_id}:1"))[0]

    await eventually(is_answered)
    async with servers.manager():
        told = await outcome(servers, view, "message-answered")

    assert (told.message_id, told.answer) == (sent.message_id, "did sleep 1.6")


@pytest.mark.stress
async def test_agent_whose_event_loop_is_blocked_answers_late_too(place: AgentPlace) -> None:
    view = await ready(place)
    async with asyncio.TaskGroup() as tasks:
        blocks = tasks.create_task(send(place, view, "sleep 0.5,block 4"))
        await place.until_state(view.agent_id, "running")
        waits = tasks.create_task(send(place, view, "block 0.1"))
    ids = [blocks.result().message_id, waits.result().message_id]
    events = await place.told(view.agent_id, last="message-answered", times=2)

    assert [task.result().agent["state"] for task in (blocks, waits)] == ["accepted"] * 2
    assert blocks.result().agent["confirmed"] is False
    assert sorted(found.message_id for event in events if (found := message_outcome(event))) == sorted(ids)


async def test_death_with_a_message_is_told_to_the_sender_and_as_an_event_and_counts_as_a_restart(
    place: AgentPlace,
) -> None:
    view = await ready(place)
    sent = await send(place, view, "exit 3")
    told = await outcome(place, view, "message-lost")
    again = await place.until(view.agent_id, lambda now: now.launch == 2 and now.state == "idle")
    await place.stop(view.agent_id)
    log = await place.records(view.agent_id, lambda lines: [line.kind for line in lines].count("ended") == 2)

    detail = f"agent {view.name} died (exit 3) while it had the message; it may have acted on it"
    assert told.error
    assert (told.message_id, told.state, told.error.detail, told.launch) == (sent.message_id, "lost", detail, 1)
    assert (sent.agent["state"], sent.agent["error"]["detail"]) == ("lost", detail)
    assert again.restarts == 1
    started = [line.text for line in log if '"agent started"' in line.text]
    assert [msgspec.json.decode(text)["restarts"] for text in started] == [0, 1]
    ends = ["launch 1 ended: exited with 3", "launch 2 ended: exited with 0"]
    assert [line.text for line in log if line.kind == "ended"] == ends
