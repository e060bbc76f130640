"""Measures posts of a worker through the gateway, compared with an acknowledged publish of the same bytes."""

from collections.abc import Awaitable, Callable

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.headers import MESSAGE_ID
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import StreamSpec, ensure_stream
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import LoggedEvent
from muster.common.contracts.worker_api import PostEvents
from tests.bench.door import Door, opened_doors
from tests.bench.ratios import rate, row, say
from tests.support.stack import RunningStack

LANES = 8
BODY = msgspec.Raw(encode({"kind": "ObservationEvent", "observation": {"content": "x" * 200}}))


async def report(stack: RunningStack, bus: Bus) -> None:
    """Print the times of posts. A post is answered after JetStream has acknowledged the frame."""
    say(f"durable ingest, {LANES} sandboxes side by side, sync_interval always (events/s)")
    row("", "through the gateway", "bare publish, same bytes", "ratio")
    await ensure_stream(bus, StreamSpec(name="BARE", subjects=["bare.stored.>"], compress=True))
    for size in (1, 20, 100):
        posts = max(LANES, 1600 // max(1, size // 4)) // LANES * LANES
        bare = await rate(bare_publish(bus, size), times=posts, side_by_side=LANES)
        async with opened_doors(stack, bus, LANES) as doors:
            durable = await rate(post(doors, size), times=posts, side_by_side=LANES)
        row(f"frames of {size}", f"{durable * size:,.0f}", f"{bare * size:,.0f}", f"{durable / bare:.2f}")


def bare_publish(bus: Bus, size: int) -> Callable[[int], Awaitable[None]]:
    """Publish a frame with `count` events directly to JetStream and wait for the acknowledgement."""
    frame = encode(events(size, 1))
    count = 0

    async def publish(lane: int) -> None:
        nonlocal count
        count += 1
        await MessageStore(bus).store_raw(f"bare.stored.{lane}", frame, {MESSAGE_ID: f"{size}-{count}"})

    return publish


def post(doors: list[Door], size: int) -> Callable[[int], Awaitable[None]]:
    """Post events as a worker does."""

    async def one(lane: int) -> None:
        door = doors[lane]
        await door.post("events", PostEvents(epoch=1, events=events(size, door.next_seq)))
        door.next_seq += size

    return one


def events(size: int, first: int) -> list[LoggedEvent]:
    """Return events as a worker posts them."""
    at = utc_now()
    return [
        LoggedEvent(seq=seq, event_id=f"e{seq}", kind="ObservationEvent", at=at, source="agent", body=BODY)
        for seq in range(first, first + size)
    ]
