"""The manager process is killed with -9 between its database and the bus."""

import asyncio
import functools
import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.contract import decode
from muster.common.contracts.tasks import GetTask, SubmitTask, TaskChanged, TaskView
from muster.common.faults import Fault, TimedOut, Unavailable
from muster.common.ids import new_id
from tests.support.eventually import eventually
from tests.support.gateway_double import GatewayDouble
from tests.support.patience import PATIENCE_S
from tests.support.prefork import Started, started
from tests.support.servers import Restartable


def start(env: dict[str, str], log: Path, *arguments: str) -> Started:
    with log.open("ab") as file:
        everything = {**os.environ, **env}
        return started("muster.agent_manager", *arguments, env=everything, stderr=file, stdin=subprocess.DEVNULL)


@asynccontextmanager
async def gateway(url: str) -> AsyncGenerator[Bus]:
    async with open_bus(url, "test") as bus:
        double = GatewayDouble(bus)
        await double.prepare()
        async with double.service():
            yield bus


def is_completed(view: TaskView) -> bool:
    return view.state == "completed"


async def ask(bus: Bus, command: SubmitTask | GetTask) -> TaskView:
    """Send a request and repeat it until the manager answers, as the API does."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await bus.request(command, timeout_s=2)
            except (Unavailable, TimedOut):
                await asyncio.sleep(0.1)


def environment(nats: Restartable, database_url: str) -> dict[str, str]:
    return {"MUSTER_NATS_URL": nats.url, "MUSTER_DATABASE_URL": database_url, "MUSTER_RECHECK_S": "0.5"}


@pytest.mark.parametrize(
    ("tasks", "killed_after"), [(6, {1, 3}), pytest.param(30, {2, 12, 22}, marks=pytest.mark.stress)]
)
async def test_events_are_published_once_and_in_order_although_the_manager_is_killed_repeatedly(
    nats_server: Restartable, database_url: str, tmp_path: Path, tasks: int, killed_after: set[int]
) -> None:
    env, log = environment(nats_server, database_url), tmp_path / "manager.log"
    assert await asyncio.to_thread(start(env, log, "migrate").wait, 30) == 0
    process = start(env, log)
    try:
        async with gateway(nats_server.url) as bus:
            ids: list[str] = []
            for number in range(tasks):
                ids.append(new_id("tsk"))
                await ask(bus, SubmitTask(task_id=ids[-1], objective="do it", package="echo"))
                if number in killed_after:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    process = start(env, log)
            async with asyncio.timeout(60):
                for task_id in ids:
                    view = await eventually(functools.partial(ask, bus, GetTask(task_id=task_id)), is_completed)
                    assert [attempt.state for attempt in view.attempts] == ["finished"], log.read_text()
                await eventually(lambda: _told(bus, ids), lambda told: told >= 5 * len(ids))
            for task_id in ids:
                assert await _versions(bus, task_id) == [1, 2, 3, 4, 5]
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0, log.read_text()


async def _versions(bus: Bus, task_id: str) -> list[int]:
    stored = MessageStore(bus).replay("TASKS", f"task.{task_id}.event.*")
    return [decode(one.body, TaskChanged).version async for one in stored]


async def _told(bus: Bus, ids: list[str]) -> int:
    return sum([len(await _versions(bus, task_id)) for task_id in ids])


async def test_service_refuses_an_older_schema_with_an_explanation(
    nats_server: Restartable, database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "manager.log"
    process = start(environment(nats_server, database_url), log)
    assert await asyncio.to_thread(process.wait, 30) == 1
    assert "run `python -m muster.agent_manager migrate`" in log.read_text()


@pytest.mark.stress
async def test_manager_survives_a_crash_of_its_servers(
    nats_server: Restartable, postgres_server: Restartable, tmp_path: Path
) -> None:
    env, log = environment(nats_server, postgres_server.url), tmp_path / "manager.log"
    assert await asyncio.to_thread(start(env, log, "migrate").wait, 30) == 0
    process = start(env, log)
    try:
        async with gateway(nats_server.url) as bus:
            for victim in (nats_server, postgres_server):
                before = SubmitTask(task_id=new_id("tsk"), objective="do it", package="echo")
                await ask(bus, before)
                await victim.kill()
                with pytest.raises(Fault) as refused:
                    await bus.request(GetTask(task_id=before.task_id))
                assert isinstance(refused.value, Unavailable | TimedOut)
                await victim.start()
                after = SubmitTask(task_id=new_id("tsk"), objective="do it", package="echo")
                await ask(bus, after)
                for command in (before, after):
                    await eventually(functools.partial(ask, bus, GetTask(task_id=command.task_id)), is_completed)
            assert process.poll() is None, "it was the same process all the time"
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0, log.read_text()
