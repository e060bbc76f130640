"""JetStream as a log, on a real server that is killed."""

import asyncio
from collections import Counter

import pytest

from muster.common.bus.buckets import Bucket
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.consume import Consumer
from muster.common.bus.deadletters import DeadLetter, DeadLetters
from muster.common.bus.message_store import MessageStore, RevisionConflict, Stored
from muster.common.bus.streams import StreamSpec, ensure_stream, stream_state
from muster.common.contract import decode
from muster.common.contracts.audit import Audited
from muster.common.faults import Conflict, TimedOut, TooMany, Unavailable
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable


async def a_stream(bus: Bus, name: str, **options: object) -> str:
    unique = f"{name}_{bus.new_id('req')[-10:]}"
    await ensure_stream(bus, StreamSpec(name=unique, subjects=[f"{unique}.>"], **options))  # pyright: ignore[reportArgumentType]
    return unique


async def test_of_two_appenders_exactly_one_wins_each_position(nats_url: str) -> None:
    async with open_bus(nats_url, "one") as one, open_bus(nats_url, "two") as two:
        stream = await a_stream(one, "RACE")
        subject, won = f"{stream}.a", Counter[str]()

        async def append_thirty(name: str, message_store: MessageStore) -> None:
            while won[name] < 30:
                tail = await message_store.tail(stream, subject)
                try:
                    await message_store.append(subject, name.encode(), last=tail.position if tail else 0)
                except RevisionConflict:
                    continue
                won[name] += 1

        await asyncio.gather(append_thirty("one", MessageStore(one)), append_thirty("two", MessageStore(two)))
        stored = [each.body.decode() async for each in MessageStore(one).replay(stream, subject)]

    assert Counter(stored) == won


async def test_replay_reads_one_subject_from_any_position(nats_url: str) -> None:
    async with open_bus(nats_url, "replay") as bus:
        stream, message_store = await a_stream(bus, "REPLAY"), MessageStore(bus)
        positions: list[int] = []
        for number in range(600):
            last = positions[-1] if positions else 0
            positions.append(await message_store.append(f"{stream}.a", str(number).encode(), last=last))
            if number % 3 == 0:
                await bus.send(f"{stream}.b", b"another")
        everything = [each async for each in message_store.replay(stream, f"{stream}.a")]
        from_the_middle = [
            each async for each in message_store.replay(stream, f"{stream}.a", after=positions[299], batch=7)
        ]
        nothing = [each async for each in message_store.replay(stream, f"{stream}.none")]

    assert [int(each.body) for each in everything] == list(range(600))
    assert [int(each.body) for each in from_the_middle] == list(range(300, 600))
    assert nothing == []


async def test_last_message_of_each_subject_is_found_among_many(nats_url: str) -> None:
    async with open_bus(nats_url, "many") as bus:
        stream, message_store = await a_stream(bus, "MANY"), MessageStore(bus)
        for number in range(1100):
            await bus.send(f"{stream}.{number}", b"old")
            await bus.send(f"{stream}.{number}", b"new")
        await message_store.append(f"{stream}.end", b"new", last=0, timeout_s=60)  # behind 2,200 synced messages
        found = await message_store.last_of_each(stream, f"{stream}.*")
        none = await message_store.last_of_each(stream, f"{stream}.none")

    assert len(found) == 1101
    assert {stored.body for stored in found} == {b"new"}
    assert none == []


async def test_full_stream_refuses_new_messages_and_keeps_the_old_ones(nats_url: str) -> None:
    async with open_bus(nats_url, "full") as bus:
        stream, message_store = await a_stream(bus, "FULL", max_bytes=2000, discard_new=True), MessageStore(bus)
        with pytest.raises(TooMany):
            for number in range(100):
                await message_store.append(f"{stream}.{number}", b"x" * 200, last=0)
        kept = (await stream_state(bus, stream)).messages
        first = await message_store.tail(stream, f"{stream}.0")

    assert kept > 0
    assert first is not None


async def test_repeated_message_id_is_stored_once(nats_url: str) -> None:
    async with open_bus(nats_url, "once") as bus:
        await ensure_stream(bus, StreamSpec(name="AUDIT", subjects=["audit.>"], deny_delete=True, deny_purge=True))
        action = bus.new_id("req")
        audited = Audited(
            service="s", action=action, event_id=action, at=bus.now(), who="a", what="b", outcome="accepted"
        )
        first = await MessageStore(bus).store(audited, action)
        second = await MessageStore(bus).store(audited, action)
        stored = [each async for each in MessageStore(bus).replay("AUDIT", f"audit.s.{action}")]

    assert first == second
    assert len(stored) == 1


async def test_bucket_replaces_only_the_revision_that_was_read(nats_url: str) -> None:
    async with open_bus(nats_url, "bucket") as bus:
        bucket = Bucket(bus, f"b{bus.new_id('req')[-8:]}", dict[str, int])
        await bucket.ensure()
        revision = await bucket.create("k", {"a": 1})
        with pytest.raises(Conflict):
            await bucket.create("k", {"a": 2})
        newer = await bucket.update("k", {"a": 3}, revision=revision)
        with pytest.raises(RevisionConflict):
            await bucket.update("k", {"a": 4}, revision=revision)
        entry = await bucket.get("k")
        assert entry is not None
        assert (entry.value, entry.revision) == ({"a": 3}, newer)
        await bucket.delete("k", revision=newer)
        assert await bucket.get("k") is None
        await bucket.create("k", {"a": 5})
        assert [one.value for one in await bucket.entries()] == [{"a": 5}]


async def test_follower_receives_each_message_once_across_a_server_crash(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "follower") as bus:
        stream, message_store, seen = await a_stream(bus, "FOLLOWED"), MessageStore(bus), list[int]()

        async def follow() -> None:
            async for stored in message_store.follow(stream, f"{stream}.a", recheck_s=1):
                seen.append(int(stored.body))
                if len(seen) == 60:
                    return

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(follow())
            last = 0
            for number in range(60):
                if number in (20, 40):
                    await nats_server.kill()
                    await nats_server.start()
                last = await append_surely(message_store, stream, f"{stream}.a", str(number).encode(), last)

    assert seen == list(range(60))


@pytest.mark.parametrize("rounds", [50, pytest.param(300, marks=pytest.mark.stress)])
async def test_wake_up_finds_the_message_that_caused_it(nats_server: Restartable, rounds: int) -> None:
    async with open_bus(nats_server.url, "follower") as bus, open_bus(nats_server.url, "writer") as writer:
        stream, seen = await a_stream(bus, "WAKING"), asyncio.Queue[int]()

        async def follow() -> None:
            async for stored in MessageStore(bus).follow(stream, f"{stream}.a", recheck_s=3600):
                seen.put_nowait(int(stored.body))

        async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follow())
            for number in range(rounds):
                await writer.send(f"{stream}.a", f"{number:900000}".encode())
                assert await seen.get() == number
            following.cancel()


async def append_surely(message_store: MessageStore, stream: str, subject: str, body: bytes, last: int) -> int:
    """Append during outages; if the outcome is unknown, read the tail of the log."""
    while True:
        try:
            return await message_store.append(subject, body, last=last)
        except (Unavailable, TimedOut, RevisionConflict):
            try:
                tail = await message_store.tail(stream, subject)
            except (Unavailable, TimedOut):
                continue
            if tail is not None and tail.body == body:
                return tail.position


async def test_pull_loop_loses_no_message_when_the_server_is_killed(nats_server: Restartable) -> None:
    handled: list[str] = []

    async def handle(stored: Stored) -> None:
        handled.append(stored.body.decode())

    async with open_bus(nats_server.url, "puller") as bus:
        stream, message_store = await a_stream(bus, "PULLED"), MessageStore(bus)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            consuming = tasks.create_task(Consumer(bus, stream, "durable", handle).run())
            last = 0
            for number in range(90):
                if number in (30, 60):
                    await nats_server.kill()
                    await nats_server.start()
                last = await append_surely(message_store, stream, f"{stream}.a", str(number).encode(), last)
            await eventually(lambda: len(set(handled)) >= 90)
            consuming.cancel()

    firsts = list(dict.fromkeys(handled))
    assert firsts == [str(number) for number in range(90)], "each is seen, and first in order"


async def test_message_that_cannot_be_handled_becomes_a_dead_letter_and_the_next_is_handled(nats_url: str) -> None:
    tried: Counter[bytes] = Counter()

    async def handle(stored: Stored) -> None:
        tried[stored.body] += 1
        match stored.body:
            case b"poison":
                raise Conflict("cannot be handled")
            case b"busy" if tried[b"busy"] < 3:
                raise Unavailable("later")
            case b"bug":
                raise KeyError("bug")
            case _:
                pass

    async with open_bus(nats_url, "burier") as bus:
        stream, message_store = await a_stream(bus, "BURIED"), MessageStore(bus)
        await DeadLetters(bus).ensure()
        for number, body in enumerate((b"poison", b"busy", b"bug", b"fine")):
            await message_store.append(f"{stream}.{number}", body, last=0)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            consuming = tasks.create_task(Consumer(bus, stream, "durable", handle, most_tries=2).run())
            await eventually(lambda: tried[b"fine"])
            consuming.cancel()
        buried = [
            decode(each.body, DeadLetter) async for each in message_store.replay("DEAD_LETTERS", f"deadletter.{stream}")
        ]

    assert [(letter.original_subject, letter.consumer) for letter in buried] == [
        (f"{stream}.0", "durable"),
        (f"{stream}.2", "durable"),
    ]
    assert tried[b"busy"] == 3
