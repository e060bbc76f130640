"""The sandbox log on a real server: compare-and-set alone prevents duplicates."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import ensure_stream
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import Fenced, FrameKind, LoggedEvent, log_stream, log_subject, partition
from muster.common.faults import Gone, TooMany, Unavailable
from muster.common.ids import new_id
from muster.sandbox_gateway.sandbox_log.domain.frames import (
    EmptyLog,
    FrameDraft,
    LogOwner,
    SeqBehind,
    control,
    events_drafts,
)
from muster.sandbox_gateway.sandbox_log.domain.verify import verify
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.streams import specs
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable

AT = datetime(2026, 11, 21, tzinfo=UTC)


async def ensure_log(bus: Bus, max_bytes: int = -1) -> None:
    for spec in specs(max_bytes):
        await ensure_stream(bus, spec)


@pytest.fixture
async def buses(nats_url: str) -> AsyncGenerator[list[Bus]]:
    """Two bus connections, as two gateways have them."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_bus(nats_url, f"gateway {number}")) for number in range(2)]
        await ensure_log(opened[0])
        yield opened


def log_of(bus: Bus) -> SandboxLog:
    return SandboxLog(bus, Headroom(bus, max_bytes=-1))


def somebody() -> LogOwner:
    return LogOwner(new_id("sbx"), new_id("tsk"), new_id("agt"), 1)


def batch(whose: LogOwner, first: int, count: int, size: int = 2) -> list[FrameDraft]:
    body = msgspec.Raw(encode("x" * size))
    events = [
        LoggedEvent(seq=seq, event_id=f"e{seq}", kind="MessageEvent", at=AT, source="agent", body=body)
        for seq in range(first, first + count)
    ]
    return events_drafts(whose, events, count * (size + 100))


async def open_log(log: SandboxLog, whose: LogOwner) -> None:
    assert await log.append([control(whose, FrameKind.OPENED, {})]) == 1


async def test_two_gateways_and_a_repeating_worker_store_each_seq_once_in_order(buses: list[Bus]) -> None:
    logs, whose, chance = [log_of(bus) for bus in buses], somebody(), random.Random(7)
    await open_log(logs[0], whose)

    async def worker(log: SandboxLog, seed: int) -> None:
        """Post events from the assumed end of the log, often repeated and often too far ahead."""
        chance, expected = random.Random(seed), 1
        while expected <= 300:
            first = max(1, expected - chance.randint(0, 8)) if chance.random() < 0.8 else expected + 1
            try:
                expected = await log.append(batch(whose, first, chance.randint(1, 20)))
            except SeqBehind as behind:
                expected = behind.next_seq

    async with asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(worker(chance.choice(logs) if number > 1 else logs[number], number))
    verdict = verify(whose.sandbox_id, await logs[0].frames(whose.sandbox_id))
    assert verdict.ok, verdict
    assert verdict.events >= 300


async def test_a_retried_post_is_accepted_and_stored_once(buses: list[Bus]) -> None:
    one, other = map(log_of, buses)
    whose = somebody()
    await open_log(one, whose)
    assert await one.append(batch(whose, 1, 3)) == 4
    assert await other.append(batch(whose, 1, 3)) == 4
    assert await other.append(batch(whose, 2, 4)) == 6
    assert await one.append(batch(whose, 1, 5)) == 6  # The gateway's cached tail is old.
    with pytest.raises(SeqBehind) as behind:
        await one.append(batch(whose, 9, 1))
    assert behind.value.next_seq == 6
    assert len(await one.frames(whose.sandbox_id)) == 3


async def test_fence_prevents_every_later_append(buses: list[Bus]) -> None:
    one, other = map(log_of, buses)
    whose = somebody()
    await open_log(one, whose)
    accepted = 1

    async def worker() -> None:
        nonlocal accepted
        while True:
            accepted = await one.append(batch(whose, accepted, 2))

    async def fence() -> None:
        await asyncio.sleep(0.05)
        await other.append([control(whose, FrameKind.FENCED, Fenced(reason="test"))])

    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker())
            tasks.create_task(fence())
    assert ended.group_contains(Gone)
    verdict = verify(whose.sandbox_id, await other.frames(whose.sandbox_id))
    assert verdict.ok, verdict
    assert (verdict.ended, verdict.events) == ("fenced", accepted - 1)
    assert accepted > 1
    for log in (one, other):
        with pytest.raises(Gone):
            await log.append(batch(whose, accepted, 1))


async def test_a_late_create_finds_the_fence(buses: list[Bus]) -> None:
    one, other = map(log_of, buses)
    whose = somebody()
    await one.append([control(whose, FrameKind.FENCED, Fenced(reason="never born"))])
    with pytest.raises(Gone):
        await other.append([control(whose, FrameKind.OPENED, {})])
    assert await one.append([control(whose, FrameKind.FENCED, Fenced(reason="again"))]) == 1
    assert len(await one.frames(whose.sandbox_id)) == 1


async def test_unopened_log_accepts_no_events(buses: list[Bus]) -> None:
    log, whose = log_of(buses[0]), somebody()
    with pytest.raises(EmptyLog):
        await log.append(batch(whose, 1, 1))
    assert await log.append([control(whose, FrameKind.CLOSED, {})]) == 1
    assert await log.frames(whose.sandbox_id) == []


async def test_seen_frame_is_written_once_by_any_gateway(buses: list[Bus]) -> None:
    logs, whose = [log_of(bus) for bus in buses], somebody()
    await open_log(logs[0], whose)

    async def notice(log: SandboxLog, request: int) -> bool:
        return await log.mark_seen(whose, f"msg_{request % 3}", f"req_{request}")

    async with asyncio.TaskGroup() as tasks:
        noticed = [tasks.create_task(notice(logs[number % 2], number)) for number in range(12)]
        tasks.create_task(logs[0].append(batch(whose, 1, 5)))
    assert sum(task.result() for task in noticed) == 3
    # A restarted gateway reads the message id from the log.
    assert not await log_of(buses[0]).mark_seen(whose, "msg_1", "req_99")
    assert len(await logs[0].frames(whose.sandbox_id)) == 5
    assert verify(whose.sandbox_id, await logs[0].frames(whose.sandbox_id)).ok


async def test_time_never_runs_backwards_in_a_log(nats_url: str) -> None:
    clock = iter([AT, AT - timedelta(hours=1), AT + timedelta(hours=1)])
    whose = somebody()
    async with open_bus(nats_url, "gateway", now=lambda: next(clock)) as bus:
        await ensure_log(bus)
        log = log_of(bus)
        await open_log(log, whose)
        await log.append(batch(whose, 1, 1))
        await log.append(batch(whose, 2, 1))
        verdict = verify(whose.sandbox_id, await log.frames(whose.sandbox_id))
    assert verdict.ok, verdict


async def test_a_frame_carries_no_header_but_the_compare_and_set(buses: list[Bus]) -> None:
    log, whose = log_of(buses[0]), somebody()
    heard: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def hear(message: object) -> None:
        heard.put_nowait(dict(getattr(message, "headers", None) or {}))

    await buses[1].subscribe(log_subject(whose.sandbox_id), hear)
    await buses[1].flush()
    await open_log(log, whose)
    assert list(await asyncio.wait_for(heard.get(), PATIENCE_S)) == ["Nats-Expected-Last-Subject-Sequence"]


async def test_appends_survive_a_killed_server_and_are_refused_during_its_outage(nats_server: Restartable) -> None:
    whose = somebody()
    async with open_bus(nats_server.url, "gateway") as bus:
        await ensure_log(bus)
        log = log_of(bus)
        await open_log(log, whose)
        accepted, stop, refused = 1, asyncio.Event(), 0

        async def worker() -> None:
            nonlocal accepted, refused
            while not stop.is_set() or accepted < 20:
                try:
                    accepted = await log.append(batch(whose, accepted, 3))
                except Unavailable:
                    refused += 1

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker())
            for _ in range(2):
                await asyncio.sleep(0.2)
                await nats_server.kill()
                await asyncio.sleep(2.2)
                await nats_server.start()
            await bus.connected.wait()
            await asyncio.sleep(0.2)
            stop.set()
        assert refused
        verdict = verify(whose.sandbox_id, await log.frames(whose.sandbox_id))
        assert verdict.ok, verdict
        assert verdict.events == accepted - 1


async def test_a_nearly_full_log_refuses_events_but_not_the_end(nats_server: Restartable) -> None:
    limit, whose = 200_000, somebody()
    async with open_bus(nats_server.url, "gateway") as bus:
        await ensure_log(bus, max_bytes=limit)
        log = SandboxLog(bus, Headroom(bus, max_bytes=limit))
        await open_log(log, whose)
        subject, message_store = log_subject(whose.sandbox_id), MessageStore(bus)
        stream = log_stream(partition(whose.sandbox_id))
        filler = subject.replace(whose.sandbox_id, "filler")
        await message_store.append(filler, random.Random(1).randbytes(185_000), last=0)
        with pytest.raises(TooMany, match=stream):
            await log.append(batch(whose, 1, 1))
        assert await log.append([control(whose, FrameKind.FINISHED, {}, next_seq=1)]) == 1
        assert await log.append([control(whose, FrameKind.CLOSED, {})]) == 1
