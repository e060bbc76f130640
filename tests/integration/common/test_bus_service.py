"""A service on a real NATS server: concurrent requests, draining, typed errors, and visibility in the `nats` CLI."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import pytest

from muster.common.bus.connection import Bus, Incoming, open_bus
from muster.common.bus.service import Service
from muster.common.contract import decode
from muster.common.contracts.tasks import EpochAnswer, ReplaceAttempt
from muster.common.faults import Fault, Forbidden, InvalidMessage, TimedOut, TooLarge, Unavailable
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable

SLOW_SERVICE = """
import asyncio, os
from muster.common.bus.connection import open_bus
from muster.common.bus.service import Service
from muster.common.contracts.tasks import EpochAnswer, ReplaceAttempt
from muster.common.supervision import until_told_to_stop

async def replace(command: ReplaceAttempt) -> EpochAnswer:
    await asyncio.sleep(0.05)
    return EpochAnswer(task_id=command.task_id, epoch=command.epoch, result="replacing")

async def main() -> None:
    async with open_bus(os.environ["NATS"], "slow") as bus:
        service = Service("slow", bus, concurrency=16)
        service.handles(ReplaceAttempt, replace)
        async with service:
            print("ready", flush=True)
            await until_told_to_stop()

asyncio.run(main())
"""


def ask(epoch: int, task_id: str = "tsk_1") -> ReplaceAttempt:
    return ReplaceAttempt(task_id=task_id, epoch=epoch, reason="because")


async def refusing(command: ReplaceAttempt) -> EpochAnswer:
    match command.reason:
        case "forbidden":
            raise Forbidden("only the manager may", field="$.task_id")
        case "bug":
            raise RuntimeError("postgres://user:password@db")
        case "slow":
            await asyncio.sleep(30)
        case "huge":
            return EpochAnswer(task_id="x" * (5 << 20), epoch=1, result="moot")
        case _:
            pass
    return EpochAnswer(task_id=command.task_id, epoch=command.epoch, result="moot")


async def test_requests_are_handled_concurrently(nats_server: Restartable) -> None:
    arrived = 0
    all_there = asyncio.Event()

    async def waits_for_the_others(command: ReplaceAttempt) -> EpochAnswer:
        nonlocal arrived
        arrived += 1
        if arrived == 50:
            all_there.set()
        await all_there.wait()
        return EpochAnswer(task_id=command.task_id, epoch=command.epoch, result="moot")

    async with open_bus(nats_server.url, "side") as bus, side_service(bus, waits_for_the_others):
        answers = await asyncio.gather(*(bus.request(ask(epoch)) for epoch in range(50)))

    assert [answer.epoch for answer in answers] == list(range(50))


def side_service(bus: Bus, handler: Callable[[ReplaceAttempt], Awaitable[EpochAnswer]]) -> Service:
    service = Service("side", bus)
    service.handles(ReplaceAttempt, handler, deadline_s=0.5 if handler is refusing else 5.0)
    return service


@pytest.mark.parametrize(
    ("reason", "raised"), [("forbidden", Forbidden), ("bug", Fault), ("slow", TimedOut), ("huge", TooLarge)]
)
async def test_each_kind_of_failure_has_a_fault_that_leaks_nothing(
    nats_server: Restartable, reason: str, raised: type[Fault]
) -> None:
    async with open_bus(nats_server.url, "refusing") as bus, side_service(bus, refusing):
        with pytest.raises(raised) as refused:
            await bus.request(ReplaceAttempt(task_id="t", epoch=1, reason=reason))
        assert type(refused.value) is raised
        assert "password" not in str(refused.value)
        if reason == "forbidden":
            assert refused.value.field == "$.task_id"
        assert (await bus.request(ask(7))).epoch == 7, "the neighbour goes on"


async def test_bad_bytes_are_refused_with_the_field_named(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "strict") as bus, side_service(bus, refusing):
        for body, field in ((b"{", "$"), (b'{"task_id": 3}', "$.task_id")):
            answer = await bus.call("task.manager.command.replace", body, timeout_s=2)
            assert answer.headers
            assert answer.headers["Nats-Service-Error-Code"] == str(InvalidMessage.status)
            assert f'"field":"{field}"'.encode() in answer.data


async def test_request_without_responder_is_unavailable_at_once(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "lonely") as bus:
        with pytest.raises(Unavailable, match=r"no service answers task\.manager"):
            await bus.request(ask(1))


async def test_stopped_server_is_unavailable_until_it_runs_again(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "patient") as bus:
        await nats_server.kill()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises((Unavailable, TimedOut)):
                await bus.request(ask(1), timeout_s=2)
        await nats_server.start()
        async with asyncio.timeout(PATIENCE_S):
            await bus.connected.wait()
        with pytest.raises(Unavailable, match="no service answers"):
            await bus.request(ask(1))


async def test_sigterm_under_200_requests_in_flight_loses_none(nats_server: Restartable) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SLOW_SERVICE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"NATS": nats_server.url},
    )
    assert process.stdout
    assert await process.stdout.readline() == b"ready\n"
    async with open_bus(nats_server.url, "asker") as bus, open_bus(nats_server.url, "listener") as listener:
        routed = asyncio.Semaphore(0)

        async def count(_: Incoming) -> None:
            routed.release()

        await listener.subscribe(ReplaceAttempt.SUBJECT, count)
        await listener.flush()
        asked = asyncio.gather(*(bus.request(ask(epoch), timeout_s=60) for epoch in range(200)))
        first = asyncio.gather(bus.request(ask(1000), timeout_s=60))
        for _ in range(201):  # The server has received all requests before the signal.
            await routed.acquire()
        process.send_signal(signal.SIGTERM)
        answers = await asked
        await first

    assert sorted(answer.epoch for answer in answers) == list(range(200))
    assert await process.wait() == 0


async def test_the_nats_cli_sees_the_service(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "seen") as bus:
        service = Service("seen", bus)
        service.handles(ReplaceAttempt, refusing)
        async with service:
            await bus.request(ask(1))
            for verb in ("PING", "INFO", "STATS"):
                about = decode((await bus.call(f"$SRV.{verb}.seen", b"", timeout_s=2)).data, dict[str, object])
                assert about["name"] == "seen"
                assert about["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
            assert '"num_requests":1' in (await bus.call("$SRV.STATS.seen", b"", timeout_s=2)).data.decode()
