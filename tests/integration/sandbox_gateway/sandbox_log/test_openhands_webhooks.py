"""The webhooks of an OpenHands agent-server: each event is stored once, in order, and numbered by the gateway."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from muster.common.bus.objects import ObjectBucket
from muster.common.contract import decode
from muster.common.contracts.gateway import FenceSandbox, VerifySandbox
from muster.common.contracts.sandbox_log import MAX_BODY_BYTES, PAYLOADS, ClippedBody, LoggedEvent, payload_name
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner
from tests.support.gateway import Stack, without_shim

SECRET = "ghp_" + "a1B2" * 10


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with without_shim(tmp_path, nats_url) as stack:
        yield stack


def events(*numbers: int, text: str = "hello") -> bytes:
    """Return events as the agent-server posts them: with a naive local time and without a seq."""
    fields = {"timestamp": "2026-11-30T12:00:00.123456", "source": "agent", "kind": "MessageEvent"}
    return json.dumps([{"id": f"event-{number}", **fields, "text": text} for number in numbers]).encode()


def path_of(owner: LogOwner, name: str) -> str:
    return f"/v1/sandboxes/{owner.sandbox_id}/openhands/{name}"


async def stored(stack: Stack, owner: LogOwner) -> list[LoggedEvent]:
    assert (await stack.bus.request(VerifySandbox(sandbox_id=owner.sandbox_id))).ok
    return [event for frame in await stack.frames(owner.sandbox_id) for event in frame.events]


async def test_repeated_and_simultaneous_batches_store_each_event_once_and_in_order(stack: Stack) -> None:
    owner, token = await stack.born()
    path = path_of(owner, "events/0123456789abcdef0123456789abcdef")
    first = await stack.call("POST", path, events(1, 2, 2), token=token)
    assert first[:2] == (202, {"next_seq": 3})
    batches = [events(1, 2, 3), events(2, 3, 4), events(1, 2, 3, 4, 5), events(*range(1, 901))]
    answers = await asyncio.gather(*(stack.call("POST", path, batch, token=token) for batch in batches))
    assert {status for status, _, _ in answers} == {202}
    found = await stored(stack, owner)
    assert [event.event_id for event in found] == [f"event-{number}" for number in range(1, 901)]
    assert [event.seq for event in found] == list(range(1, 901))
    await stack.end()
    await stack.start()
    assert (await stack.call("POST", path, events(899, 900, 901), token=token))[1] == {"next_seq": 902}


async def test_session_key_is_accepted_and_an_equal_conversation_is_stored_once(stack: Stack) -> None:
    owner, token = await stack.born()
    described: dict[str, Any] = {"id": "0123", "execution_status": "running", "agent": {"llm": {"api_key": "*****"}}}
    for status in ("running", "running", "finished"):
        body = json.dumps(described | {"execution_status": status}).encode()
        answer = await stack.pool.request(
            "POST",
            f"http://gateway{path_of(owner, 'conversations')}",
            headers={"x-session-api-key": token},
            content=body,
        )
        assert answer.status == 202
    found = await stored(stack, owner)
    assert [decode(bytes(event.body), dict[str, Any])["execution_status"] for event in found] == ["running", "finished"]
    assert {event.kind for event in found} == {"ConversationInfo"}


async def test_long_event_is_kept_whole_and_wrong_events_are_refused(stack: Stack) -> None:
    owner, token = await stack.born()
    path = path_of(owner, "events/c1")
    posted = events(1, text="x" * MAX_BODY_BYTES + SECRET)
    for _ in range(2):
        assert (await stack.call("POST", path, posted, token=token))[0] == 202
    (long,) = await stored(stack, owner)
    whole = posted[1:-1].replace(SECRET.encode(), b"[redacted: github token]")
    told = decode(bytes(long.body), ClippedBody)
    assert (told.sha256, told.size, told.redacted) == (long.payload, len(whole), True)
    bucket = ObjectBucket(stack.bus, PAYLOADS)
    record = await bucket.find(payload_name(owner.sandbox_id, told.sha256))
    assert record is not None
    assert b"".join([piece async for piece in bucket.read(record)]) == whole
    for wrong in (b"{}", b"[{}]", b"[1]", b"[", b'[{"id":"a"}]'):
        assert (await stack.call("POST", path, wrong, token=token))[0] == 422
    assert (await stack.call("POST", f"{path}/c2", events(2), token=token))[0] == 404
    assert (await stack.call("POST", path, events(2)))[0] == 401
    fence = FenceSandbox(
        sandbox_id=owner.sandbox_id, task_id=owner.task_id, agent_id=owner.agent_id, epoch=1, reason="replaced"
    )
    await stack.bus.request(fence)
    assert (await stack.call("POST", path, events(2), token=token))[0] == 410
    assert len([event for frame in await stack.frames(owner.sandbox_id) for event in frame.events]) == 1
