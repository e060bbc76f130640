"""Agents in process mode from start to stop, with a real shim, NATS and PostgreSQL and very small packages."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from muster.agent_manager.fleet.adapters.shim import AgentProcesses
from muster.common.contract import decode
from muster.common.contracts.agent_lifecycle import StartAgent, StopAgent
from muster.common.contracts.agent_registry import ListAgents
from muster.common.faults import Conflict, InvalidMessage, NotFound
from muster.common.ids import new_id
from tests.support.process_agents import AgentPlace, agent_place, write_package

SLEEPER = """
import os, sys, time
print("began", os.environ["AGENT_ID"], os.environ["AGENT_TYPE"], os.environ["AGENT_NAME"], os.environ["AGENT_VERSION"])
print("@" in os.environ["NATS_URL"], sorted(name for name in os.environ if "MUSTER" in name), file=sys.stderr)
time.sleep(1000)
"""

POLITE = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("here", flush=True)
while True: signal.pause()
"""


@pytest.fixture
async def place(nats_url: str, manager_database_url: str, tmp_path: Path) -> AsyncIterator[AgentPlace]:
    async with agent_place(nats_url, manager_database_url, tmp_path) as place:
        write_package(place.packages, "sleeper", SLEEPER)
        write_package(place.packages, "three", "import sys; print('no'); sys.exit(3)")
        write_package(place.packages, "polite", POLITE)
        write_package(place.packages, "clean", "print('done')")
        yield place


async def test_a_started_agent_runs_with_its_environment_and_a_stopped_one_leaves_nothing(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("sleeper")
        lines = await place.lines(view.agent_id, lambda lines: len(lines) == 2)
        stopping = await place.stop(view.agent_id)
        stopped = await place.until_state(view.agent_id, "stopped")
        kinds = [event.kind for event in await place.told(view.agent_id, last="stopped")]

    assert (view.state, view.launch, view.restarts, view.desired) == ("starting", 1, 0, "running")
    assert view.owner
    assert sorted(line.text for line in lines) == [
        "False []",
        f"began {view.agent_id} test {view.name} 1.0.0",
    ]
    assert stopping.state == "stopping"
    assert (stopped.desired, stopped.pid, stopped.exit_code) == ("stopped", None, 143)
    assert (stopped.reason, stopped.cites) == ("ended by SIGTERM", "exit#1")
    assert kinds == ["registered", "starting", "starting", "launched", "stopping", "stopped"]
    assert not place.living(of=view.agent_id)


async def test_exit_0_is_stopped_and_another_exit_is_an_error_with_the_code_after_the_restarts(
    place: AgentPlace,
) -> None:
    async with place.manager():
        clean, three = await place.register("clean"), await place.register("three")
        await place.start(clean)
        await place.start(three)
        ended = await place.until_state(clean, "stopped")
        failed = await place.until(three, lambda view: view.state == "error" and view.launch == 5)
        lines = await place.lines(three, lambda lines: len(lines) == 5)
        again = await place.start(three)
        await place.until(three, lambda view: view.launch > 5)

    assert (ended.desired, ended.exit_code, ended.reason) == ("stopped", 0, "exited with 0")
    assert (failed.exit_code, failed.restarts, failed.cites) == (3, 4, "exit#5")
    assert failed.reason
    assert failed.reason.startswith("exited with 3; it failed too often")
    assert [(line.launch, line.n, line.text) for line in lines] == [(launch, 1, "no") for launch in range(1, 6)]
    assert (again.state, again.exit_code, again.restarts) == ("starting", None, 0), "a command begins anew"


async def test_a_killed_agent_is_started_again_at_once_and_the_signal_is_named(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("sleeper")
        assert view.pid
        os.kill(view.pid, signal.SIGKILL)
        again = await place.until(view.agent_id, lambda now: now.launch == 2 and now.pid is not None)
        await place.stop(view.agent_id)
        told = await place.told(view.agent_id, last="stopped")

    assert again.pid != view.pid
    assert (again.exit_code, again.restarts, again.desired) == (None, 1, "running")
    assert again.reason is None, "what ended is told of the one that ended, not of the one that runs"
    reasons = [(event.kind, decode(event.body, dict[str, object]).get("reason")) for event in told]
    assert reasons[4:7] == [("error", "ended by SIGKILL"), ("starting", None), ("launched", None)]


async def test_a_restart_replaces_the_process_and_the_same_command_does_so_once(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("sleeper")
        await place.restart(view.agent_id)
        again = await place.until(view.agent_id, lambda now: now.launch == 2 and now.pid is not None)
        command = StopAgent(agent_id=view.agent_id, command_id=new_id("req"))
        await place.bus.request(command)
        await place.until_state(view.agent_id, "stopped")
        await place.start(view.agent_id)
        running = await place.until(view.agent_id, lambda now: now.launch == 3 and now.pid is not None)
        replayed = await place.bus.request(command)
        with pytest.raises(Conflict, match="was used for stop of agent"):
            await place.bus.request(StartAgent(agent_id=view.agent_id, command_id=command.command_id))

    assert again.pid != view.pid
    assert (replayed.desired, replayed.version) == ("running", running.version), "it was obeyed long ago"


async def test_agents_survive_the_manager_and_the_next_one_finds_them(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("sleeper")
        dies = await place.started("sleeper")
    assert dies.pid
    os.kill(dies.pid, signal.SIGKILL)
    async with place.manager():
        found = await place.until(view.agent_id, lambda now: now.owner not in (None, view.owner))
        again = await place.until(dies.agent_id, lambda now: now.launch == 2 and now.pid is not None)
        await place.stop(view.agent_id)
        await place.until_state(view.agent_id, "stopped")

    assert (found.pid, found.launch) == (view.pid, 1)
    assert (again.exit_code, again.reason) == (None, None)


async def test_agent_that_ran_when_its_host_stopped_is_started_again(place: AgentPlace) -> None:
    """`muster down` stopped the agent with exit code 0, but its desired state is still running."""
    async with place.manager():
        before = await place.started("polite")
        await place.lines(before.agent_id, bool)
    place.process.process.terminate()
    await asyncio.to_thread(place.process.process.wait, 30)
    assert not psutil.pid_exists(before.pid or 0)
    place.process.again()
    await place.shim.probe(deadline_s=30)

    async with place.manager():
        view = await place.until(before.agent_id, lambda view: view.launch == 2 and view.pid)
        kinds = [event.kind for event in await place.told(before.agent_id, last="launched", times=2)]

    assert (view.desired, view.reason, view.exit_code, view.restarts) == ("running", None, None, 0)
    assert kinds[-3:] == ["ended", "starting", "launched"]


async def test_agent_that_cannot_start_is_refused_with_an_explanation(place: AgentPlace) -> None:
    async with place.manager():
        with pytest.raises(NotFound) as unknown:
            await place.start(new_id("agt"))
        with pytest.raises(InvalidMessage) as wild:
            await place.start("agt_*")
        agent_id = await place.register("clean")
        (place.packages / "clean" / "agent.toml").unlink()
        from muster.agent_manager.fleet.wiring import discovery

        await discovery(place.database, place.settings, place.catalogue).look()
        with pytest.raises(Conflict, match="there is no package 'clean'"):
            await place.start(agent_id)

    assert unknown.value.field == "$.agent_id"
    assert wild.value.field == "$.agent_id"


async def test_an_agent_in_sandbox_mode_takes_tasks_when_started_and_none_when_stopped(place: AgentPlace) -> None:
    async with place.manager():
        (default,) = (await place.bus.request(ListAgents(package="echo"), timeout_s=30)).agents
        stopped = await place.stop(default.agent_id)
        started = await place.start(default.agent_id)
        again = await place.restart(default.agent_id)

    assert (default.mode, default.state) == ("sandbox", "idle")
    assert (stopped.state, stopped.desired) == ("stopped", "stopped")
    assert (started.state, started.desired) == ("idle", "running")
    assert (again.state, again.launch) == ("idle", 0), "nothing is launched: its processes come with its tasks"


async def test_cancelled_launch_cannot_start_later(place: AgentPlace) -> None:
    workers, agent_id = (
        AgentProcesses(place.shim, root=place.settings.data_dir / "agents", at_least="plain"),
        new_id("agt"),
    )
    burnt = await workers.burn(agent_id, 1)
    late = await place.shim.launch(f"agt:{agent_id}:1", ["sleep", "1000"], cwd=place.packages)
    running = await place.shim.launch(f"agt:{agent_id}:2", ["sleep", "1000"], cwd=place.packages)
    found = await workers.burn(agent_id, 2)

    assert (burnt.running, late.state) == (False, "exited")
    assert (found.running, found.pid) == (True, running.pid), "who was faster is found, and can be ended"
