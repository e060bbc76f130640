"""A service limits the concurrent requests of each endpoint and ends running requests at the drain time. NATS is real."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.service import Service
from muster.common.contracts.gateway import ExecInSandbox, FenceSandbox, SandboxAccepted, SandboxOutput
from muster.common.faults import Fault, Unavailable
from tests.support.eventually import eventually
from tests.support.gateway_life import finished, living_stack, manager_double
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable

SLOTS = 3
AN_HOUR_S = 3600.0


def exec_command(number: int) -> ExecInSandbox:
    return ExecInSandbox(sandbox_id="sbx_1", key=str(number), command="sleep 25")


def fence_command() -> FenceSandbox:
    return FenceSandbox(sandbox_id="sbx_1", task_id="tsk_1", agent_id="agt_1", epoch=1, reason="silent")


async def fenced(command: FenceSandbox) -> SandboxAccepted:
    return SandboxAccepted(sandbox_id=command.sandbox_id, state="fenced")


class Endless:
    """A handler whose requests run until they are cancelled."""

    def __init__(self) -> None:
        self.running = 0

    async def exec(self, _: ExecInSandbox) -> SandboxOutput:
        self.running += 1
        await asyncio.get_running_loop().create_future()
        raise AssertionError


def service_of(
    bus: Bus, handler: Callable[[ExecInSandbox], Awaitable[SandboxOutput]], drain_s: float = 0.05
) -> Service:
    service = Service("sandbox_gateway", bus, concurrency=SLOTS, drain_s=drain_s)
    service.handles(ExecInSandbox, handler, deadline_s=AN_HOUR_S)
    service.handles(FenceSandbox, fenced)
    return service


async def answered(bus: Bus, command: ExecInSandbox) -> SandboxOutput | Fault:
    try:
        return await bus.request(command, timeout_s=AN_HOUR_S)
    except Fault as fault:
        return fault


async def test_fence_is_answered_while_slow_requests_use_all_their_slots(nats_url: str) -> None:
    endless = Endless()
    async with (
        open_bus(nats_url, "slots") as bus,
        asyncio.timeout(PATIENCE_S),
        asyncio.TaskGroup() as tasks,
        service_of(bus, endless.exec),
    ):
        for number in range(SLOTS + 2):
            tasks.create_task(answered(bus, exec_command(number)))
        await eventually(lambda: endless.running == SLOTS)
        assert (await bus.request(fence_command())).state == "fenced"
        assert endless.running == SLOTS, "the other two still wait for a slot"


async def test_stopping_service_answers_unavailable_to_requests_left_after_the_drain_time(nats_url: str) -> None:
    endless = Endless()
    async with open_bus(nats_url, "drained") as bus, open_bus(nats_url, "asker") as asker, asyncio.timeout(PATIENCE_S):
        async with service_of(bus, endless.exec):
            asked = [asyncio.ensure_future(answered(asker, exec_command(number))) for number in range(SLOTS + 2)]
            await eventually(lambda: endless.running == SLOTS)
            await asker.flush()
        answers = await asyncio.gather(*asked)

    assert [type(answer) for answer in answers] == [Unavailable] * (SLOTS + 2)
    assert all("sandbox_gateway is stopping" in str(answer) for answer in answers)


async def test_stopping_service_answers_requests_that_end_within_the_drain_time(nats_url: str) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def short(_: ExecInSandbox) -> SandboxOutput:
        running.set()
        await go_on.wait()
        return SandboxOutput(exit_code=0, output="done", seconds=0.1)

    async with open_bus(nats_url, "drained") as bus, open_bus(nats_url, "asker") as asker, asyncio.timeout(PATIENCE_S):
        async with service_of(bus, short, drain_s=AN_HOUR_S):
            asked = asyncio.ensure_future(answered(asker, exec_command(1)))
            await running.wait()
            asyncio.get_running_loop().call_soon(go_on.set)
        answer = await asked

    assert isinstance(answer, SandboxOutput)


async def test_service_stops_without_an_error_while_nats_is_unreachable(nats_server: Restartable) -> None:
    endless = Endless()
    async with open_bus(nats_server.url, "drained") as bus, open_bus(nats_server.url, "asker") as asker:
        async with service_of(bus, endless.exec):
            asked = asyncio.ensure_future(answered(asker, exec_command(1)))
            await eventually(lambda: endless.running == 1)
            await nats_server.kill()
            await eventually(lambda: not bus.connected.is_set())
        asked.cancel()


@pytest.mark.stress
async def test_stopping_gateway_ends_a_running_exec_with_unavailable(nats_url: str, tmp_path: Path) -> None:
    async with living_stack(tmp_path, nats_url, MUSTER_DRAIN_S="0.2") as stack, manager_double(stack):
        command = await stack.create()
        await stack.until(command.sandbox_id, finished)
        asked = ExecInSandbox(
            sandbox_id=command.sandbox_id, key="slow", command="touch begun && exec sleep 600", timeout_s=900.0
        )
        answer = asyncio.ensure_future(stack.bus.request(asked, timeout_s=AN_HOUR_S))
        await eventually(lambda: any((tmp_path / "data").rglob("begun")))
        assert await stack.end() == 0
        (ended,) = await asyncio.gather(answer, return_exceptions=True)

    assert isinstance(ended, Unavailable), ended
