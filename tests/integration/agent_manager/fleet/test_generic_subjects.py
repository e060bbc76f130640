"""The two generic subjects for users of the `nats` CLI, with hand-written JSON requests and replies of a fixed shape."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muster.common.bus.connection import Incoming
from muster.common.ids import new_id
from tests.support.eventually import eventually
from tests.support.process_agents import AgentPlace, agent_place, write_package

FIELDS = {"status", "command", "agent_id", "result", "error", "timestamp"}


@pytest.fixture
async def place(nats_url: str, manager_database_url: str, tmp_path: Path) -> AsyncIterator[AgentPlace]:
    async with agent_place(nats_url, manager_database_url, tmp_path) as place:
        write_package(place.packages, "sleeper", "import time; print('up'); time.sleep(1000)")
        yield place


async def say(place: AgentPlace, kind: str, **said: Any) -> dict[str, Any]:
    """Send a request as `nats request agent.manager.<kind> '{…}'` does."""
    body = msgspec.json.encode({"timestamp": "2026-11-21T05:00:00", **said})  # as Python's utcnow() writes it
    answer = await place.bus.call(f"agent.manager.{kind}", body, timeout_s=30)
    response = msgspec.json.decode(answer.data)
    assert set(response) == FIELDS
    return response


async def test_agent_is_registered_started_asked_and_stopped_with_the_nats_cli(place: AgentPlace) -> None:
    agent_id = new_id("agt")
    told = list[dict[str, Any]]()

    async def hear(message: Incoming) -> None:
        told.append(msgspec.json.decode(message.data))

    async with place.manager():
        listening = await place.bus.subscribe("agent.manager.response", hear)
        params = {"name": agent_id, "package": "sleeper"}
        registered = await say(place, "command", command="register", agent_id=agent_id, params=params)
        started = await say(place, "command", command="start", agent_id=agent_id)
        await place.until(agent_id, lambda view: view.pid is not None)
        await place.lines(agent_id, lambda lines: len(lines) == 1)
        status = await say(place, "command", command="status", agent_id=agent_id)
        logs = await say(place, "query", command="logs", agent_id=agent_id)
        found = await say(place, "query", command="list", params={"package": "sleeper"})
        restarted = await say(place, "command", command="restart", agent_id=agent_id)
        stopped = await say(place, "command", command="stop", agent_id=agent_id)
        await place.until_state(agent_id, "stopped")
        await place.start(agent_id)  # The typed subject publishes the outcome too.
        await eventually(lambda: _ended(told, 9))
        await listening.unsubscribe()

    assert [one["status"] for one in (registered, started, status, logs, found, restarted, stopped)] == ["success"] * 7
    assert started["result"]["desired"] == "running"
    assert status["result"]["pid"]
    assert status["result"]["asked"] == "no_answer"
    assert [line["text"] for line in logs["result"]["lines"]] == ["up"]
    assert [agent["agent_id"] for agent in found["result"]["agents"]] == [agent_id]
    assert stopped["result"]["desired"] == "stopped"
    commands = [one["command"] for one in told if one["agent_id"] in (agent_id, "")]
    assert commands == ["register", "start", "status", "logs", "list", "restart", "stop", "start"]


async def _ended(told: list[dict[str, Any]], count: int) -> bool:
    return len(told) >= count - 1


NONSENSE: list[tuple[dict[str, Any], str, str]] = [
    ({"command": "explode", "agent_id": "a"}, "unknown_command", "$.command"),
    ({"command": "start", "agent_id": "agt_unknown"}, "not_found", "$.agent_id"),
    ({"command": "start", "agent_id": "*"}, "invalid_message", "$.agent_id"),
    ({"command": "start", "agent_id": "a.command"}, "invalid_message", "$.agent_id"),
    ({"command": "message", "agent_id": ">", "params": {"text": "x"}}, "invalid_message", "$.agent_id"),
    ({"command": "message", "agent_id": "a"}, "invalid_message", "$.params.text"),
    ({"command": "register", "agent_id": "a", "params": {"name": 3}}, "invalid_message", "$.params.name"),
]


async def test_invalid_request_gets_a_structured_error_reply(place: AgentPlace) -> None:
    async with place.manager():
        for said, code, field in NONSENSE:
            response = await say(place, "command", **said)
            assert response["status"] == "error"
            assert (response["error"]["code"], response["error"]["field"]) == (code, field)
            assert response["error"]["detail"]
            assert response["result"] is None


async def test_undecodable_request_gets_an_error_of_the_same_shape_and_is_published(place: AgentPlace) -> None:
    told = list[dict[str, Any]]()

    async def hear(message: Incoming) -> None:
        told.append(msgspec.json.decode(message.data))

    unreadable: list[tuple[bytes, str, str]] = [
        (b"start it!", "", "is not JSON"),
        (b"\xff", "", "is not JSON"),
        (b"", "", "is not JSON"),
        (b"[]", "", "must be an object"),
        (b"{}", "", "command is missing"),
        (b'{"command": 3, "agent_id": "a"}', "", "command must be a text"),
        (b'{"command": "stop", "agent_id": ["a"]}', "stop", "agent_id must be a text"),
        (b'{"command": "stop", "agent_id": "a", "params": 1}', "stop", "params must be an object"),
        (b'{"command": "stop", "timestamp": "now"}', "stop", "timestamp must be a time"),
    ]
    async with place.manager():
        listening = await place.bus.subscribe("agent.manager.response", hear)
        for kind in ("command", "query"):
            for body, command, says in unreadable:
                answer = msgspec.json.decode((await place.bus.call(f"agent.manager.{kind}", body, timeout_s=30)).data)
                assert set(answer) == FIELDS
                assert (answer["status"], answer["command"], answer["result"]) == ("error", command, None)
                assert says in answer["error"]["detail"]
                assert set(answer["error"]) == {"code", "status", "detail", "field"}
        await eventually(lambda: _ended(told, 2 * len(unreadable) + 1))
        await listening.unsubscribe()


async def test_unknown_verb_is_refused_with_the_list_of_verbs_and_subjects(place: AgentPlace) -> None:
    async with place.manager():
        unknown = await say(place, "command", command="explode")
        query = await say(place, "command", command="list")
        nobody = await say(place, "command", command="start")
        everybody = await say(place, "query", command="list")

    assert unknown["error"]["field"] == "$.command"
    assert "'explode'" in unknown["error"]["detail"]
    assert "restart, start, status, stop" in unknown["error"]["detail"]
    assert "but there is on agent.manager.query" in query["error"]["detail"]
    assert (nobody["error"]["field"], nobody["error"]["status"]) == ("$.agent_id", 422)
    assert everybody["status"] == "success"


async def test_an_id_with_a_wildcard_never_becomes_a_subject(place: AgentPlace) -> None:
    heard = list[str]()

    async def hear(message: Incoming) -> None:
        heard.append(message.subject)

    async with place.manager():
        spies = [await place.bus.subscribe(f"agent.*.{kind}", hear) for kind in ("command", "query", "log")]
        for agent_id in ("*", ">", "a.b", "a b", "", "manager.command"):
            for kind, command in (("command", "message"), ("query", "status"), ("query", "logs"), ("command", "stop")):
                params = {"text": "x"} if command == "message" else {}
                assert (await say(place, kind, command=command, agent_id=agent_id, params=params))["status"] == "error"
        for spy in spies:
            await spy.unsubscribe()

    assert set(heard) <= {"agent.manager.command", "agent.manager.query"}
