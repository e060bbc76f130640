"""Measures durable ingest through the gateway, beside a bare publish of the same frames and beside the older design.

All three run in the same run, in turns, because the speed of a shared machine changes from minute to minute. The load
client is a process of its own, and the report shows the share of one core that the client used.
"""

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import StreamSpec, ensure_stream
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import PARTITIONS, LoggedEvent
from muster.common.contracts.worker_api import PostEvents
from tests.bench.ingest_servers import gateway_alone, older_design
from tests.bench.load import post, posted
from tests.bench.ratios import rate, say
from tests.support.gateway import Stack

CLIENTS, SIZES = (8, 64), (1, 20, 100)
POSTS = {1: 2400, 20: 1600, 100: 640}
"""Posts of one measurement, by the size of a frame."""
ROUNDS = 3
BODY = msgspec.Raw(encode({"kind": "ObservationEvent", "observation": {"content": "x" * 200}}))


async def report() -> None:
    """Print the events per second. A post is answered after JetStream has written the frame to disk."""
    say("ingest: gateway and NATS alone, sync_interval always (events/s; each the median of 3 turns)")
    say(f"  {'':<28}{'gateway':>10}{'bare publish':>14}{'of bare':>9}{'FastAPI+Redis':>15}{'of Redis':>9}{'client':>8}")
    with tempfile.TemporaryDirectory(prefix="muster-ingest-") as place:
        async with gateway_alone(Path(place)) as stack, older_design(Path(place)) as older:
            for part in range(PARTITIONS):
                subjects = [f"bare.{part:02d}.*"]
                await ensure_stream(stack.bus, StreamSpec(name=f"BARE_{part:02d}", subjects=subjects, compress=True))
            for clients in CLIENTS:
                for size in SIZES:
                    await compared(stack, older, clients, size)


async def compared(stack: Stack, older: Path | None, clients: int, size: int) -> None:
    """Measure one size of frames with one number of clients, and print one row."""
    posts = POSTS[size] // clients * clients
    took = list[tuple[float, float, float, float]]()
    for turn in range(ROUNDS + 1):
        bare = await rate(bare_publish(stack.bus, size, turn * 100 + clients), times=posts, side_by_side=clients)
        requests = await posts_of(stack, clients, size, posts // clients)
        began, used = time.perf_counter(), time.process_time()
        durable = await posted(stack.socket, requests)
        busy = (time.process_time() - used) / (time.perf_counter() - began)
        redis = await posted(older, requests) if older else 0.0
        took += [(durable * size, bare * size, redis * size, busy)] if turn else []  # The first turn warms up.
    durable, bare, redis, busy = (statistics.median(column) for column in zip(*took, strict=True))
    of_bare = statistics.median(one[0] / one[1] for one in took)
    of_redis = f"{statistics.median(one[0] / one[2] for one in took):.2f}" if older else "skipped"
    name = f"{clients} clients, frames of {size}"
    say(f"  {name:<28}{durable:>10,.0f}{bare:>14,.0f}{of_bare:>9.2f}{redis:>15,.0f}{of_redis:>9}{busy:>8.0%}")


def bare_publish(bus: Bus, size: int, turn: int) -> Callable[[int], Awaitable[None]]:
    """Append frames as the gateway does, by compare-and-set and to as many streams, but without HTTP and checks."""
    frame, store, positions = encode(events(size, 1)), MessageStore(bus), dict[int, int]()

    async def publish(lane: int) -> None:
        subject = f"bare.{lane % PARTITIONS:02d}.{turn}-{size}-{lane}"
        positions[lane] = await store.append(subject, frame, last=positions.get(lane, 0))

    return publish


async def posts_of(stack: Stack, clients: int, size: int, count: int) -> list[list[bytes]]:
    """Return the requests of each client, which is one sandbox with an open log."""
    requests = list[list[bytes]]()
    for _ in range(clients):
        owner, token = await stack.born()
        path = f"/v1/sandboxes/{owner.sandbox_id}/events"
        firsts: Sequence[int] = range(1, count * size + 1, size)
        requests.append([post(path, token, encode(PostEvents(epoch=1, events=events(size, at)))) for at in firsts])
    return requests


def events(size: int, first: int) -> list[LoggedEvent]:
    """Return events as a worker posts them."""
    at = utc_now()
    return [
        LoggedEvent(seq=seq, event_id=f"e{seq}", kind="ObservationEvent", at=at, source="agent", body=BODY)
        for seq in range(first, first + size)
    ]
