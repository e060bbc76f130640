"""After the end of a run its inbox and model are closed. During the run its model calls are counted."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from muster.common.contracts.gateway import FenceSandbox
from muster.common.contracts.sandbox_log import Closed, Finished, FrameKind, partition
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner, control
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from tests.support.gateway import Stack, without_shim

CHAT = "/v1/chat/completions"
ASK = {"model": "scripted/hello", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Stack]:
    monkeypatch.setenv("MUSTER_MODEL_CALLS_PER_MINUTE", "1")
    async with without_shim(tmp_path, nats_url) as stack:
        (stack.home / "scripts" / "hello.json").write_text(json.dumps({"courses": [{"steps": [{"say": "hello"}]}]}))
        yield stack


async def ends(stack: Stack, whose: LogOwner, how: FrameKind) -> None:
    """End a run through another gateway than the called one, or by a command."""
    another = SandboxLog(stack.bus, Headroom(stack.bus, max_bytes=-1))
    match how:
        case FrameKind.FINISHED:
            body = Finished(outcome="success", summary="", diff="")
            await another.append([control(whose, how, body, next_seq=1)])
        case FrameKind.CLOSED:
            await another.append([control(whose, how, Closed(reason="done"))])
        case _:
            fence = FenceSandbox(
                sandbox_id=whose.sandbox_id, task_id=whose.task_id, agent_id=whose.agent_id, epoch=1, reason="silent"
            )
            await stack.bus.request(fence)


@pytest.mark.parametrize("how", [FrameKind.FINISHED, FrameKind.CLOSED, FrameKind.FENCED])
async def test_model_and_inbox_are_gone_after_the_end_of_the_log(stack: Stack, how: FrameKind) -> None:
    whose, token = await stack.born()
    inbox = f"/v1/sandboxes/{whose.sandbox_id}/inbox"
    assert (await stack.call("GET", inbox, token=token))[0] == 200
    await ends(stack, whose, how)
    assert (await stack.call("GET", inbox, token=token))[0] == 410
    assert (await stack.call("POST", CHAT, ASK, token=token))[0] == 410
    subject = f"sandbox.{partition(whose.sandbox_id)}.{whose.sandbox_id}.model"
    assert await stack.journal.tail("MODEL_CALLS", subject) is None


async def test_model_calls_over_the_rate_get_retry_after(stack: Stack) -> None:
    _, token = await stack.born()
    assert (await stack.call("POST", CHAT, ASK, token=token))[0] == 200
    status, _, headers = await stack.call("POST", CHAT, ASK, token=token)
    assert status == 429
    assert int(headers["retry-after"]) > 0
    _, other = await stack.born()
    assert (await stack.call("POST", CHAT, ASK, token=other))[0] == 200
