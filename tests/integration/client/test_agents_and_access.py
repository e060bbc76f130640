"""Both clients call the routes for agents, keys, users and the audit log of a real API."""

import asyncio
from typing import Any

import pytest

from muster.client import (
    AgentChange,
    AgentSearch,
    ApiStatusError,
    ApiTimeoutError,
    NewAgent,
    NewKey,
    NewUser,
    UserChange,
)
from muster.common.contracts.agent_messages import MessageResult
from muster.common.ids import new_id
from tests.support.agents_double import agents_double
from tests.support.api import ADMIN_KEY, ApiProcess
from tests.support.both_clients import Act, Flavour, both, using
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S


@both
async def test_agent_is_registered_changed_started_and_deleted(api: ApiProcess, nats_url: str, flavour: Flavour):
    async def do(act: Act) -> Any:
        return await using(flavour, api.url, act, key=ADMIN_KEY)

    new = NewAgent(name=new_id("agt"), package="echo", labels={"team": "core"}, phase_id="2")
    async with agents_double(nats_url) as manager:
        agent = await do(lambda client: client.agents.register(new))
        changed = await do(lambda client: client.agents.update(agent, AgentChange(labels={})))
        assert changed.labels == {}, "an empty value is sent"
        with pytest.raises(ApiStatusError) as refused:
            await do(lambda client: client.agents.update(agent, AgentChange(labels={"late": "yes"})))
        assert refused.value.status == 412

        assert (await do(lambda client: client.agents.start(agent.agent_id))).desired == "running"
        assert (await do(lambda client: client.agents.message(agent.agent_id, "hello"))).agent_id == agent.agent_id
        assert (await do(lambda client: client.agents.status(agent.agent_id))).agent_id == agent.agent_id
        assert (await do(lambda client: client.agents.metrics(agent.agent_id))).agent_id == agent.agent_id
        await manager.say(agent.agent_id, "one", "two")
        page = await do(lambda client: client.agents.logs(agent.agent_id))
        assert [line.text for line in page.lines] == ["one", "two"]
        assert (await do(lambda client: client.agents.find(AgentSearch(capabilities=["echo"])))).considered
        assert (await do(lambda client: client.packages.list())).packages is not None
        assert (await do(lambda client: client.capabilities.list())).capabilities is not None
        found = await do(lambda client: client.agents.all(name_starts=new.name, labels={}))
        assert [one.agent_id for one in found] == [agent.agent_id]

        await do(lambda client: client.agents.restart(agent.agent_id))
        stopped = await do(lambda client: client.agents.stop(agent.agent_id))
        await do(lambda client: client.agents.delete(stopped))
        async with asyncio.timeout(60):
            told = await do(lambda client: client.agents.events(agent.agent_id))

    assert next(item.event.kind for item in told if item.event) == "registered"
    assert told[-1].name == "end", "the agent is deleted"


@both
async def test_call_with_wait_returns_the_late_outcome_of_a_message(api: ApiProcess, nats_url: str, flavour: Flavour):
    async def do(act: Act) -> Any:
        return await using(flavour, api.url, act, key=ADMIN_KEY)

    async with agents_double(nats_url) as manager, asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        agent = await do(lambda client: client.agents.register(NewAgent(name=new_id("agt"), package="echo")))
        await do(lambda client: client.agents.start(agent.agent_id))
        waiting = tasks.create_task(do(lambda client: client.agents.message(agent.agent_id, "later a", wait_s=60)))
        await eventually(lambda: manager.heard)
        await manager.told(agent, "idle")
        await manager.settle(MessageResult(message_id=manager.heard[0].message_id, state="answered", answer="A"))
        found = await waiting
        assert (found.message_id, found.agent["answer"]) == (manager.heard[0].message_id, "A")

        assert (await do(lambda client: client.agents.message(agent.agent_id, "later b"))).agent["state"] == "accepted"
        with pytest.raises(ApiTimeoutError, match="has not answered message msg_"):
            await do(lambda client: client.agents.message(agent.agent_id, "later c", wait_s=0.1))


@both
async def test_key_of_a_user_is_issued_and_revoked(api: ApiProcess, flavour: Flavour):
    async def do(act: Act, key: str = ADMIN_KEY) -> Any:
        return await using(flavour, api.url, act, key=key)

    user = await do(lambda client: client.users.add(NewUser(name="Vera", email="vera@example.org", role="viewer")))
    changed = await do(lambda client: client.users.update(user.user_id, UserChange(email=None, role="operator")))
    assert (changed.name, changed.email, changed.role) == ("Vera", None, "operator"), "None removes the address"
    issued = await do(lambda client: client.keys.issue(NewKey(name="laptop", user_id=user.user_id)))
    assert (await do(lambda client: client.whoami(), issued.key)).user_id == user.user_id
    held = await do(lambda client: client.keys.all(user_id=user.user_id))
    assert [key.key_id for key in held] == [issued.key_id]

    await do(lambda client: client.keys.revoke(issued.key_id))
    with pytest.raises(ApiStatusError) as refused:
        await do(lambda client: client.whoami(), issued.key)
    assert refused.value.status == 401
    assert user.user_id in [one.user_id for one in await do(lambda client: client.users.all())]
    await do(lambda client: client.users.delete(user.user_id))
    entries = await do(lambda client: client.audit.list(action="delete-user", outcome="done", limit=5))
    assert all(entry.action == "delete-user" for entry in entries.entries)
