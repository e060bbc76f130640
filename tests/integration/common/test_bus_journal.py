"""JetStream as a log, on a real server that gets killed."""

import asyncio
from collections import Counter

import pytest

from muster.common.bus.buckets import Bucket
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.consume import Consumer
from muster.common.bus.deadletters import DeadLetter, DeadLetters
from muster.common.bus.journal import Journal, RevisionConflict, Stored
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

        async def append_thirty(name: str, journal: Journal) -> None:
            while won[name] < 30:
                tail = await journal.tail(stream, subject)
                try:
                    await journal.append(subject, name.encode(), last=tail.position if tail else 0)
                except RevisionConflict:
                    continue
                won[name] += 1

        await asyncio.gather(append_thirty("one", Journal(one)), append_thirty("two", Journal(two)))
        stored = [each.body.decode() async for each in Journal(one).replay(stream, subject)]

    assert Counter(stored) == won


async def test_replay_reads_one_subject_from_any_position(nats_url: str) -> None:
    async with open_bus(nats_url, "replay") as bus:
        stream, journal = await a_stream(bus, "REPLAY"), Journal(bus)
        positions: list[int] = []
        for number in range(600):
            last = positions[-1] if positions else 0
            positions.append(await journal.append(f"{stream}.a", str(number).encode(), last=last))
            if number % 3 == 0:
                await bus.send(f"{stream}.b", b"another")
        everything = [each async for each in journal.replay(stream, f"{stream}.a")]
        from_the_middle = [each async for each in journal.replay(stream, f"{stream}.a", after=positions[299], batch=7)]
        nothing = [each async for each in journal.replay(stream, f"{stream}.none")]

    assert [int(each.body) for each in everything] == list(range(600))
    assert [int(each.body) for each in from_the_middle] == list(range(300, 600))
    assert nothing == []


async def test_the_last_of_each_subject_is_found_however_many_there_are(nats_url: str) -> None:
    async with open_bus(nats_url, "many") as bus:
        stream, journal = await a_stream(bus, "MANY"), Journal(bus)
        for number in range(1100):
            await bus.send(f"{stream}.{number}", b"old")
            await bus.send(f"{stream}.{number}", b"new")
        await journal.append(f"{stream}.end", b"new", last=0, timeout_s=60)  # behind 2,200 synced messages
        found = await journal.last_of_each(stream, f"{stream}.*")
        none = await journal.last_of_each(stream, f"{stream}.none")

    assert len(found) == 1101
    assert {stored.body for stored in found} == {b"new"}
    assert none == []


async def test_a_full_stream_refuses_and_keeps_what_it_has(nats_url: str) -> None:
    async with open_bus(nats_url, "full") as bus:
        stream, journal = await a_stream(bus, "FULL", max_bytes=2000, discard_new=True), Journal(bus)
        with pytest.raises(TooMany):
            for number in range(100):
                await journal.append(f"{stream}.{number}", b"x" * 200, last=0)
        kept = (await stream_state(bus, stream)).messages
        first = await journal.tail(stream, f"{stream}.0")

    assert kept > 0
    assert first is not None


async def test_a_store_that_is_resent_is_stored_once(nats_url: str) -> None:
    async with open_bus(nats_url, "once") as bus:
        await ensure_stream(bus, StreamSpec(name="AUDIT", subjects=["audit.>"], deny_delete=True, deny_purge=True))
        action = bus.new_id("req")
        audited = Audited(
            service="s", action=action, event_id=action, at=bus.now(), who="a", what="b", outcome="accepted"
        )
        first = await Journal(bus).store(audited, action)
        second = await Journal(bus).store(audited, action)
        stored = [each async for each in Journal(bus).replay("AUDIT", f"audit.s.{action}")]

    assert first == second
    assert len(stored) == 1


async def test_a_bucket_replaces_only_what_was_read(nats_url: str) -> None:
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


async def test_a_follower_sees_everything_once_across_a_servers_death(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "follower") as bus:
        stream, journal, seen = await a_stream(bus, "FOLLOWED"), Journal(bus), list[int]()

        async def follow() -> None:
            async for stored in journal.follow(stream, f"{stream}.a", recheck_s=1):
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
                last = await append_surely(journal, stream, f"{stream}.a", str(number).encode(), last)

    assert seen == list(range(60))


async def test_who_is_woken_finds_what_woke_it(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "follower") as bus, open_bus(nats_server.url, "writer") as writer:
        stream, seen, rounds = await a_stream(bus, "WAKING"), asyncio.Queue[int](), 300

        async def follow() -> None:
            async for stored in Journal(bus).follow(stream, f"{stream}.a", recheck_s=3600):
                seen.put_nowait(int(stored.body))

        async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follow())
            for number in range(rounds):
                await writer.send(f"{stream}.a", f"{number:900000}".encode())
                assert await seen.get() == number
            following.cancel()


async def append_surely(journal: Journal, stream: str, subject: str, body: bytes, last: int) -> int:
    """Append through outages: when the outcome is unknown, the tail tells."""
    while True:
        try:
            return await journal.append(subject, body, last=last)
        except (Unavailable, TimedOut, RevisionConflict):
            try:
                tail = await journal.tail(stream, subject)
            except (Unavailable, TimedOut):
                continue
            if tail is not None and tail.body == body:
                return tail.position


async def test_the_pull_loop_loses_nothing_when_the_server_is_killed(nats_server: Restartable) -> None:
    handled: list[str] = []

    async def handle(stored: Stored) -> None:
        handled.append(stored.body.decode())

    async with open_bus(nats_server.url, "puller") as bus:
        stream, journal = await a_stream(bus, "PULLED"), Journal(bus)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            consuming = tasks.create_task(Consumer(bus, stream, "durable", handle).run())
            last = 0
            for number in range(90):
                if number in (30, 60):
                    await nats_server.kill()
                    await nats_server.start()
                last = await append_surely(journal, stream, f"{stream}.a", str(number).encode(), last)
            await eventually(lambda: len(set(handled)) >= 90)
            consuming.cancel()

    firsts = list(dict.fromkeys(handled))
    assert firsts == [str(number) for number in range(90)], "each is seen, and first in order"


async def test_what_cannot_be_handled_is_buried_and_the_next_is_handled(nats_url: str) -> None:
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
        stream, journal = await a_stream(bus, "BURIED"), Journal(bus)
        await DeadLetters(bus).ensure()
        for number, body in enumerate((b"poison", b"busy", b"bug", b"fine")):
            await journal.append(f"{stream}.{number}", body, last=0)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            consuming = tasks.create_task(Consumer(bus, stream, "durable", handle, most_tries=2).run())
            await eventually(lambda: tried[b"fine"])
            consuming.cancel()
        buried = [
            decode(each.body, DeadLetter) async for each in journal.replay("DEAD_LETTERS", f"deadletter.{stream}")
        ]

    assert [(letter.original_subject, letter.consumer) for letter in buried] == [
        (f"{stream}.0", "durable"),
        (f"{stream}.2", "durable"),
    ]
    assert tried[b"busy"] == 3
