"""Requests that try to exhaust the gateway: limits of what they may write, keep open and fill."""

import asyncio
import json
from collections.abc import AsyncGenerator, MutableMapping
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog

from muster.common.bus.connection import open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import ensure_stream
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.gateway import SendMessage
from muster.common.contracts.model_calls import ModelCalled
from muster.common.contracts.sandbox_log import FrameKind, Seen, log_stream, log_subject, partition
from muster.common.faults import Fault, TooMany
from muster.common.ids import new_id
from muster.sandbox_gateway.http.request import WorkerRequest, refusal
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.streams import specs
from tests.support.gateway import Stack, without_shim
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with without_shim(tmp_path, nats_url) as stack:
        yield stack


async def test_sandbox_sees_only_its_own_messages(stack: Stack) -> None:
    script = {"courses": [{"steps": [{"say": "hello", "tool": "finish", "args": {"message": "x"}}]}]}
    (stack.home / "scripts" / "hello.json").write_text(json.dumps(script))
    whose, token = await stack.born()
    other, _ = await stack.born()

    def message(to: str) -> SendMessage:
        return SendMessage(
            sandbox_id=to,
            message_id=new_id("msg"),
            epoch=1,
            text="Look again.",
            sender="guardian",
            expires_at=utc_now() + timedelta(minutes=5),
        )

    own, others = message(whose.sandbox_id), message(other.sandbox_id)
    await stack.bus.request(own)
    await stack.bus.request(others)
    ids = [*(f"made-up-{number}" for number in range(500)), others.message_id, own.message_id]
    text = "\n".join(f"[muster:{message_id}]" for message_id in ids)
    chat = json.dumps({"model": "scripted/hello", "messages": [{"role": "user", "content": text}]}).encode()
    for _ in range(2):
        assert (await stack.call("POST", "/v1/chat/completions", chat, token=token))[0] == 200
    seen = [frame for frame in await stack.frames(whose.sandbox_id) if frame.kind is FrameKind.SEEN]
    assert [decode(bytes(frame.body), Seen).message_id for frame in seen] == [own.message_id]
    subject = f"sandbox.{partition(whose.sandbox_id)}.{whose.sandbox_id}.model"
    calls = [decode(one.body, ModelCalled) async for one in stack.journal.replay("MODEL_CALLS", subject)]
    assert [call.markers for call in calls] == [[own.message_id]] * 2


async def test_a_body_that_never_ends_is_refused_at_its_deadline() -> None:
    """Pieces arrive all the time, so only a deadline for the whole body ends the request."""

    async def drip() -> MutableMapping[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    request = WorkerRequest({"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}, drip)
    with pytest.raises(Fault) as refused:
        async with asyncio.timeout(PATIENCE_S):
            await request.body(within_s=0.2)
    assert refused.value.status == 408
    assert refusal(refused.value, "").headers["connection"] == "close"


async def test_nearly_full_log_is_logged_once_and_shown_in_health(nats_server: Restartable) -> None:
    limit, sandbox_id = 100_000, new_id("sbx")
    stream = log_stream(partition(sandbox_id))
    async with open_bus(nats_server.url, "gateway") as bus:
        for spec in specs(limit):
            await ensure_stream(bus, spec)
        headroom = Headroom(bus, max_bytes=limit, look_again_s=0.0)
        with structlog.testing.capture_logs() as told:
            await headroom.check(stream)
            assert headroom.nearly_full == []
            await MessageStore(bus).append(log_subject(sandbox_id), Random(1).randbytes(92_000), last=0)
            for _ in range(3):
                with pytest.raises(TooMany):
                    await headroom.check(stream)
        assert headroom.nearly_full == [stream]
        assert [(line["log_level"], line["stream"]) for line in told] == [("error", stream)]


async def test_health_names_the_logs_that_are_nearly_full(stack: Stack) -> None:
    healthy: dict[str, object] = {"status": "alive", "nearly_full": [], "problems": [], "left_sandboxes": []}
    health = (await stack.call("GET", "/health"))[1]
    assert {name: health[name] for name in healthy} == healthy
