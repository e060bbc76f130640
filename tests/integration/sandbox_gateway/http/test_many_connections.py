"""Sandboxes that send too much or open too many connections are refused, and the others continue."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import LoggedEvent
from muster.common.contracts.worker_api import PostEvents
from muster.sandbox_gateway.http.request_allowance import CONNECTIONS, MOST_ANONYMOUS, MOST_REQUESTS, REQUESTS_AT_ONCE
from tests.support.eventually import eventually
from tests.support.gateway import Stack, without_shim
from tests.support.patience import PATIENCE_S

LARGE = b"[" + b"[]," * 2_500_000 + b"0]"
"""7.2 MiB, and over 150 MB once it is decoded."""


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with without_shim(tmp_path, nats_url) as stack:
        yield stack


async def beat(stack: Stack, sandbox_id: str, token: str) -> int:
    since = utc_now().isoformat()
    body = {"state": "running", "busy": "tool", "since": since, "events": 0, "acked": 0, "epoch": 1}
    return (await stack.call("POST", f"/v1/sandboxes/{sandbox_id}/beat", json.dumps(body).encode(), token=token))[0]


async def post_events(stack: Stack, sandbox_id: str, token: str, seqs: range) -> int:
    at, body = utc_now(), msgspec.Raw(encode({"text": "x" * 400}))
    events = [LoggedEvent(seq=seq, event_id=f"e{seq}", kind="note", at=at, source="agent", body=body) for seq in seqs]
    path = f"/v1/sandboxes/{sandbox_id}/events"
    return (await stack.call("POST", path, PostEvents(epoch=1, events=events), token=token))[0]


def process_of(stack: Stack) -> psutil.Process:
    assert stack.gateway is not None
    return psutil.Process(stack.gateway.pid)


def asking(sandbox_id: str, token: str, *, wait_s: int = 0) -> bytes:
    path = f"/v1/sandboxes/{sandbox_id}/inbox?wait_s={wait_s}"
    return f"GET {path} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {token}\r\n\r\n".encode()


class Lines:
    """Connections that are closed at the end of the test."""

    def __init__(self) -> None:
        self.writers = list[asyncio.StreamWriter]()

    async def line(self, stack: Stack, head: bytes = b"") -> asyncio.StreamReader:
        reader, writer = await asyncio.open_unix_connection(stack.socket)
        self.writers.append(writer)
        writer.write(head)
        return reader


@asynccontextmanager
async def crowd() -> AsyncGenerator[Lines]:
    lines = Lines()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield lines
    finally:
        for writer in lines.writers:
            writer.close()


async def test_large_posts_are_refused_before_they_cost_memory_and_another_sandbox_beats_on(stack: Stack) -> None:
    greedy, token = await stack.born()
    other, others = await stack.born()
    gateway = process_of(stack)
    before = gateway.memory_info().rss

    async def post(number: int) -> tuple[int, str]:
        door = "/v1/chat/completions" if number % 2 else f"/v1/sandboxes/{greedy.sandbox_id}/events"
        status, _, headers = await stack.call("POST", door, LARGE, token=token)
        return status, headers.get("retry-after", "")

    async with asyncio.TaskGroup() as tasks:
        posts = [tasks.create_task(post(number)) for number in range(8)]
        assert await beat(stack, other.sandbox_id, others) == 202
    answers = [task.result() for task in posts]
    assert {status for status, _ in answers} <= {413, 422, 429}
    assert any(status == 429 for status, _ in answers)
    assert all(after for status, after in answers if status == 429)
    assert gateway.memory_info().rss - before < 200_000_000
    assert await beat(stack, greedy.sandbox_id, token) == 202


async def test_a_sandbox_that_posts_without_pause_delays_no_post_of_another(stack: Stack) -> None:
    greedy, token = await stack.born()
    other, others = await stack.born()
    statuses = list[int]()

    async def flood() -> None:
        while True:
            statuses.append(await post_events(stack, greedy.sandbox_id, token, range(1, 101)))

    floods = [asyncio.create_task(flood()) for _ in range(REQUESTS_AT_ONCE)]
    meanwhile = list[int]()
    async with asyncio.timeout(PATIENCE_S):
        for seq in range(1, 11):
            before = len(statuses)
            assert await post_events(stack, other.sandbox_id, others, range(seq, seq + 1)) == 202
            meanwhile.append(len(statuses) - before)
    for task in floods:
        task.cancel()
    await asyncio.gather(*floods, return_exceptions=True)
    assert 202 in statuses
    assert set(statuses) <= {202, 429}
    # The other's post waits for its own append, and not until the greedy sandbox has used up its allowance.
    assert sorted(meanwhile)[len(meanwhile) // 2] <= 2 * REQUESTS_AT_ONCE
    assert max(meanwhile) <= MOST_REQUESTS / 2


async def test_connections_are_bounded_and_a_worker_always_finds_a_place(stack: Stack) -> None:
    whose, token = await stack.born()
    assert await beat(stack, whose.sandbox_id, token) == 202
    gateway = process_of(stack)
    before = gateway.num_fds()
    async with crowd() as lines:
        strangers = [await lines.line(stack) for _ in range(3 * MOST_ANONYMOUS)]
        assert await beat(stack, whose.sandbox_id, token) == 202
        assert await strangers[0].read() == b""
        await eventually(lambda: gateway.num_fds() <= before + MOST_ANONYMOUS)
        known = list[asyncio.StreamReader]()
        # One after the other, because the number of concurrent requests is limited too.
        for _ in range(CONNECTIONS + 1):
            known.append(await lines.line(stack, asking(whose.sandbox_id, token)))
            assert b" 200 " in await known[-1].readline()
        assert b'"messages"' in await known[0].read()
        assert await beat(stack, whose.sandbox_id, token) == 202


async def test_request_over_the_limit_gets_retry_after(stack: Stack) -> None:
    whose, token = await stack.born()
    other, others = await stack.born()
    async with crowd() as lines:
        head = asking(whose.sandbox_id, token, wait_s=30)
        polls = [await lines.line(stack, head) for _ in range(REQUESTS_AT_ONCE + 1)]
        reading = [asyncio.create_task(reader.readuntil(b"\r\n\r\n")) for reader in polls]
        done, waiting = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        (answer,) = [task.result() for task in done]
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nretry-after: 2\r\n" in answer
        assert await beat(stack, other.sandbox_id, others) == 202
        for task in waiting:
            task.cancel()
