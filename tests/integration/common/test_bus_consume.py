"""The pull loop with a slow handler handles no message twice."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.consume import Consumer, Handler
from muster.common.bus.deadletters import DeadLetters
from muster.common.bus.message_store import MessageStore, Stored
from muster.common.bus.streams import JetStreamRefusal, StreamSpec, ensure_stream, jetstream
from muster.common.contract import decode
from muster.common.faults import Conflict
from tests.support.patience import PATIENCE_S

ACK_WAIT_S = 1.5
MESSAGES = 30


class Delivered(msgspec.Struct):
    """The number of deliveries by the server, with redeliveries."""

    consumer_seq: int


class Standing(msgspec.Struct):
    """The server's information about a consumer."""

    delivered: Delivered
    num_ack_pending: int


@asynccontextmanager
async def consuming(bus: Bus, handler: Handler) -> AsyncGenerator[str]:
    """Create a stream with messages and a consumer; return the stream's name."""
    stream = f"SLOW_{bus.new_id('req')[-10:]}"
    await ensure_stream(bus, StreamSpec(name=stream, subjects=[f"{stream}.>"]))
    await DeadLetters(bus).ensure()
    for number in range(MESSAGES):
        await MessageStore(bus).append(f"{stream}.{number}", str(number).encode(), last=0)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(Consumer(bus, stream, "durable", handler, ack_wait_s=ACK_WAIT_S).run())
        yield stream
        running.cancel()


async def standing(bus: Bus, stream: str) -> Standing:
    return decode(await jetstream(bus, f"CONSUMER.INFO.{stream}.durable"), Standing)


async def until_all_acknowledged(bus: Bus, stream: str) -> Standing:
    while True:
        try:
            now = await standing(bus, stream)
        except JetStreamRefusal:  # The consumer does not exist yet.
            continue
        if now.delivered.consumer_seq >= MESSAGES and not now.num_ack_pending:
            return now
        await asyncio.sleep(0.02)


async def test_message_that_waits_for_a_slow_handler_is_not_redelivered(nats_url: str) -> None:
    handled: list[str] = []

    async def handle(stored: Stored) -> None:
        if not handled:
            await asyncio.sleep(3.5 * ACK_WAIT_S)
        handled.append(stored.body.decode())

    async with open_bus(nats_url, "slow") as bus, consuming(bus, handle) as stream:
        end = await until_all_acknowledged(bus, stream)

    assert handled == [str(number) for number in range(MESSAGES)]
    assert end.delivered.consumer_seq == MESSAGES


async def test_redelivered_copy_of_a_known_message_is_acknowledged_and_not_handled(nats_url: str) -> None:
    handled: Counter[str] = Counter()

    async def handle(stored: Stored) -> None:
        handled[stored.body.decode()] += 1
        if handled.total() in (1, MESSAGES):
            time.sleep(2.5 * ACK_WAIT_S)  # noqa: ASYNC251 - nothing runs meanwhile, so all comes again, acknowledged or not
        if stored.body == b"3":
            raise Conflict("cannot be handled")

    async with open_bus(nats_url, "blocked") as bus, consuming(bus, handle) as stream:
        end = await until_all_acknowledged(bus, stream)

    assert end.delivered.consumer_seq > MESSAGES, "copies were delivered"
    assert handled == Counter(str(number) for number in range(MESSAGES))
