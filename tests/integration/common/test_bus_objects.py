"""Large objects in chunks on a real NATS server: complete or absent, whatever is killed or repeated."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.client import Client

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.objects import CHUNK_BYTES, BrokenObject, ObjectBucket
from muster.common.faults import TooMany
from muster.common.ids import new_id

BODY = b"".join(number.to_bytes(4) for number in range(CHUNK_BYTES))
"""Four chunks, each of them different."""
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    async with open_bus(nats_url, "test") as bus:
        yield bus


async def made(bus: Bus, *, max_bytes: int = -1) -> tuple[ObjectBucket, str]:
    name = f"objects_{new_id('req')}"
    bucket = ObjectBucket(bus, name, max_bytes=max_bytes)
    await bucket.ensure()
    return bucket, name


async def whole(bucket: ObjectBucket, name: str) -> bytes:
    record = await bucket.find(name)
    assert record is not None
    return b"".join([piece async for piece in bucket.read(record)])


async def test_simultaneous_and_repeated_writers_store_each_chunk_once(bus: Bus) -> None:
    bucket, _ = await made(bus)
    records = await asyncio.gather(*(bucket.put("sbx/a", BODY, sha256=SHA256) for _ in range(4)))
    assert {record.sha256 for record in records} == {SHA256}
    assert await whole(bucket, "sbx/a") == BODY
    assert await bucket.size_below("sbx") == len(BODY)
    assert await bucket.size_below("sb") == 0


async def test_object_of_a_dead_writer_does_not_exist_until_another_one_completes_it(bus: Bus) -> None:
    bucket, name = await made(bus)
    store = MessageStore(bus)
    await store.append(f"$O.{name}.C.sbx.a", BODY[:CHUNK_BYTES], last=0)
    assert await bucket.find("sbx/a") is None
    assert await bucket.size_below("sbx") == CHUNK_BYTES, "half an object takes its space"
    await bucket.put("sbx/a", BODY, sha256=SHA256)
    assert await whole(bucket, "sbx/a") == BODY


async def test_reader_gets_no_last_piece_of_a_damaged_object(bus: Bus) -> None:
    bucket, _ = await made(bus)
    record = await bucket.put("sbx/a", BODY, sha256=hashlib.sha256(b"other").hexdigest())
    read = b""
    with pytest.raises(BrokenObject):
        async for piece in bucket.read(record):
            read += piece
    assert len(read) == len(BODY) - CHUNK_BYTES


async def test_full_bucket_refuses_an_object(bus: Bus) -> None:
    bucket, _ = await made(bus, max_bytes=2 * CHUNK_BYTES)
    with pytest.raises(TooMany):
        await bucket.put("sbx/a", BODY, sha256=SHA256)
    assert await bucket.find("sbx/a") is None


async def test_object_is_read_by_the_object_store_of_nats(bus: Bus, nats_url: str) -> None:
    bucket, name = await made(bus)
    await bucket.put("sbx/a", BODY, sha256=SHA256, metadata={"redacted": "true"})
    client = Client()
    await client.connect(nats_url)
    try:
        context: Any = client.jetstream()  # pyright: ignore[reportUnknownMemberType]
        store = await context.object_store(name)
        assert (await store.get("sbx/a")).data == BODY
    finally:
        await client.close()
