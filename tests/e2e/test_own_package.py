"""A user's package is copied into a folder of a running stack; its agents are registered, used and deleted."""

import asyncio

from muster.agent.scaffold import write
from muster.common.contract import decode
from muster.common.contracts.agent_registry import Choice
from muster.common.contracts.agents import AgentView
from muster.common.contracts.packages import PackageList
from muster.common.contracts.tasks import TaskView
from tests.support.eventually import eventually
from tests.support.fleet import Fleet
from tests.support.patience import PATIENCE_S
from tests.support.whole_stack import WholeStack


async def asked(fleet: Fleet, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    return await fleet.call(method, f"/api/v1/{path}", body)


async def registered(fleet: Fleet, mode: str) -> AgentView:
    body = {"name": f"greeter as a {mode}", "package": "greeter", "mode": mode, "config": {"greeting": "Oh"}}
    status, answer = await asked(fleet, "POST", "agents", body)
    assert status == 201, answer
    agent = decode(answer, AgentView)
    status, answer = await asked(fleet, "POST", f"agents/{agent.agent_id}/start")
    assert status == 202, answer
    return await state(fleet, agent, "idle")


async def state(fleet: Fleet, agent: AgentView, wanted: str) -> AgentView:
    return await eventually(
        lambda: fleet.read(f"/api/v1/agents/{agent.agent_id}", AgentView), lambda view: view.state == wanted
    )


async def deleted(fleet: Fleet, agent: AgentView) -> None:
    refused, _ = await asked(fleet, "POST", f"agents/{agent.agent_id}/stop")
    assert refused == 202
    view = await state(fleet, agent, "stopped")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, answer = await fleet.call("DELETE", f"/api/v1/agents/{agent.agent_id}", etag=f'"{view.version}"')
            if status != 412:
                break
            # The agent's last heartbeat has changed the version meanwhile.
            view = await fleet.read(f"/api/v1/agents/{agent.agent_id}", AgentView)
    assert status == 200, answer
    assert (await asked(fleet, "GET", f"agents/{agent.agent_id}"))[0] == 404


async def test_a_package_dropped_into_a_folder_runs_in_both_modes(whole: WholeStack, fleet: Fleet) -> None:
    write("greeter", whole.packages)
    await eventually(
        lambda: fleet.read("/api/v1/packages", PackageList),
        lambda found: "greeter" in [package.name for package in found.packages if package.usable],
    )

    process = await registered(fleet, "process")
    assert process.pid
    status, answer = await asked(fleet, "POST", f"agents/{process.agent_id}/messages", {"text": "hi"})
    assert (status, b"Oh: hi" in answer) == (200, True), answer

    sandboxed = await registered(fleet, "sandbox")
    status, answer = await asked(fleet, "POST", "tasks", {"objective": "hi", "agent_id": sandboxed.agent_id})
    assert status == 201, answer
    done = await fleet.ended(decode(answer, TaskView).task_id)
    assert (done.state, done.summary, done.error) == ("completed", "Oh: hi", None)

    _, answer = await asked(fleet, "POST", "agents/find", {"package": "greeter", "mode": "process", "available": True})
    choice = decode(answer, Choice)
    assert choice.agent is not None
    assert choice.agent.agent_id == process.agent_id
    for agent in (process, sandboxed):
        await deleted(fleet, agent)
