"""Managers are killed or frozen while agents in process mode run.

Every agent still runs exactly once, and none is orphaned.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from muster.common.contracts.agent_registry import ListAgents
from muster.common.contracts.agents import AgentView
from muster.common.faults import TimedOut, Unavailable
from tests.support.gateway_double import GatewayDouble
from tests.support.prefork import Started, started
from tests.support.process_agents import AgentPlace, agent_place, write_package

pytestmark = pytest.mark.timeout(300)

AGENTS = 50 if os.environ.get("MUSTER_CHAOS") == "full" else 8
"""`make chaos` runs the whole fleet; `make test` a small one."""
WORKER = """
import fcntl, os, signal, sys, time
lock = open("lock", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    open("twice", "w").close()
print(os.getpid(), flush=True)
time.sleep(1000)
"""


class Managers:
    """The manager processes of a test."""

    def __init__(self, place: AgentPlace, log: Path) -> None:
        self._place, self._log = place, log
        self.processes = list[Started]()

    def start(self) -> Started:
        settings = self._place.settings
        env = {
            **os.environ,
            "MUSTER_NATS_URL": settings.nats_url.get_secret_value(),
            "MUSTER_DATABASE_URL": settings.database_url.get_secret_value(),
            "MUSTER_SHIM_SOCKET": str(settings.shim_socket),
            "MUSTER_DATA_DIR": str(settings.data_dir),
            "MUSTER_ISOLATION_AT_LEAST": settings.isolation_at_least,
            "MUSTER_PACKAGES_DIRS": settings.packages_dirs,
        }
        with self._log.open("ab") as file:
            process = started("muster.agent_manager", env=env, stderr=file, stdout=file, stdin=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def leases(self) -> int:
        """Return the number of managers that have acquired their lease, from the log."""
        return sum("manager_id" in line and "lease" in line for line in self._log.read_text().splitlines())

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            process.wait(30)


@pytest.fixture
async def place(nats_url: str, manager_database_url: str, tmp_path: Path) -> AsyncIterator[AgentPlace]:
    async with agent_place(nats_url, manager_database_url, tmp_path) as place:
        write_package(place.packages, "worker", WORKER)
        await GatewayDouble(place.bus).prepare()
        yield place


@pytest.fixture
async def managers(place: AgentPlace, tmp_path: Path) -> AsyncIterator[Managers]:
    managers = Managers(place, tmp_path / "managers.log")
    try:
        yield managers
    finally:
        await asyncio.to_thread(managers.close)


async def fleet(place: AgentPlace) -> list[AgentView]:
    """Return all agents in process mode; retry during the outage of a killed process."""
    async with asyncio.timeout(60):
        while True:
            try:
                page = await place.bus.request(ListAgents(mode="process", limit=100), timeout_s=2)
            except (Unavailable, TimedOut):
                await asyncio.sleep(0.1)
            else:
                return page.agents


async def running(place: AgentPlace, *, not_by: set[str | None], within_s: float = 60.0) -> list[AgentView]:
    """Return all agents when each agent's process runs and its manager is not one of `not_by`."""
    seen = list[AgentView]()
    try:
        async with asyncio.timeout(within_s):
            while True:
                seen = await fleet(place)
                pids = living(place)
                if len(seen) == AGENTS and all(one.pid in pids and one.owner not in {None, *not_by} for one in seen):
                    return seen
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError([(one.agent_id, one.state, one.pid, one.owner, one.reason) for one in seen]) from None


async def begin(place: AgentPlace) -> list[AgentView]:
    await fleet(place)  # wait until a manager answers
    ids = [await place.register("worker") for _ in range(AGENTS)]
    for agent_id in ids:
        await place.start(agent_id)
    return await running(place, not_by=set())


def living(place: AgentPlace) -> dict[int, str]:
    """Return the agents' processes as pid and agent id. All of them are children of the shim."""
    found: dict[int, str] = {}
    for process in place.living(of="muster.shim") + place.living(of="worker"):
        try:
            if "--handoff" in process.cmdline():
                found[process.pid] = process.environ()["AGENT_ID"]
        except (psutil.Error, KeyError):
            continue
    return found


def assert_once_each(place: AgentPlace, seen: list[AgentView]) -> None:
    counted = Counter(living(place).values())
    assert counted == Counter({view.agent_id: 1 for view in seen})
    assert not list((place.settings.data_dir / "agents").glob("*/work/twice")), "one ran twice at the same time"


async def all_stopped(place: AgentPlace, seen: list[AgentView]) -> None:
    for view in seen:
        await place.stop(view.agent_id)
    for view in seen:
        await place.until_state(view.agent_id, "stopped")
    assert not living(place)


@pytest.mark.stress
async def test_agents_of_a_killed_manager_are_adopted_or_replaced_and_none_runs_twice(
    place: AgentPlace, managers: Managers
) -> None:
    first = managers.start()
    before = await begin(place)
    second = managers.start()
    await asyncio.to_thread(_until_leased, managers, 2)
    first.kill()
    for view in before[::5]:  # Some agents crash while no manager runs.
        assert view.pid
        os.kill(view.pid, signal.SIGKILL)
    after = await running(place, not_by={view.owner for view in before})

    assert second.poll() is None
    pids = {view.agent_id: view.pid for view in before}
    replaced = {view.agent_id for view in before[::5]}
    for view in after:
        assert (view.pid != pids[view.agent_id]) == (view.agent_id in replaced), "who lives is adopted"
        assert view.launch == (2 if view.agent_id in replaced else 1)
    assert_once_each(place, after)
    await all_stopped(place, after)


@pytest.mark.stress
async def test_resumed_manager_after_a_freeze_is_fenced(place: AgentPlace, managers: Managers) -> None:
    first = managers.start()
    before = await begin(place)
    managers.start()
    await asyncio.to_thread(_until_leased, managers, 2)
    first.send_signal(signal.SIGSTOP)
    after = await running(place, not_by={view.owner for view in before})
    for view in after[::3]:
        assert view.pid
        os.kill(view.pid, signal.SIGKILL)
    first.send_signal(signal.SIGCONT)  # The shim also reports these exits, and all that the manager missed.
    await place.until(after[0].agent_id, lambda view: view.launch == 2 and view.pid is not None)
    later = await running(place, not_by={view.owner for view in before})

    assert_once_each(place, later)
    assert {view.launch for view in later} == {1, 2}
    await all_stopped(place, later)


@pytest.mark.stress
async def test_next_manager_finds_the_agents_of_a_killed_manager(place: AgentPlace, managers: Managers) -> None:
    only = managers.start()
    before = await begin(place)
    only.kill()
    await asyncio.to_thread(only.wait)
    managers.start()
    after = await running(place, not_by={view.owner for view in before})

    assert {view.pid for view in after} == {view.pid for view in before}
    assert_once_each(place, after)
    await all_stopped(place, after)


def _until_leased(managers: Managers, count: int) -> None:
    """Wait until a manager has its lease, which only its log shows."""
    deadline = time.monotonic() + 60
    while managers.leases() < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)
