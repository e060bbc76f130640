"""The worker endpoints over real HTTP: accepted requests, refusals, and no refused event in the log."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from muster.common.bus.connection import open_bus
from muster.common.clock import rfc3339, utc_now
from muster.common.contract import decode
from muster.common.contracts.audit import Audited
from muster.common.contracts.gateway import FenceSandbox, SandboxBeat, SendMessage
from muster.common.contracts.model_calls import ModelCalled
from muster.common.contracts.sandbox_log import MAX_BODY_BYTES, FrameKind, partition
from muster.common.faults import Unavailable
from muster.common.ids import new_id
from muster.common.withheld_diffs import withheld_secrets
from muster.sandbox_gateway.messages.store.notifier import LOOK_AGAIN_S
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner
from tests.support.cases import cases
from tests.support.eventually import eventually
from tests.support.gateway import Stack, without_shim
from tests.support.patience import PATIENCE_S, at_best_s
from tests.support.servers import Restartable
from tests.support.streams import ensure_streams


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with without_shim(tmp_path, nats_url) as stack:
        yield stack


def post(first: int, count: int, **changes: Any) -> bytes:
    events = [
        {
            "seq": seq,
            "event_id": f"e{seq}",
            "kind": "k",
            "at": rfc3339(utc_now()),
            "source": "agent",
            "body": {"n": seq},
        }
        for seq in range(first, first + count)
    ]
    return json.dumps({"epoch": 1, "events": events, **changes}).encode()


_TEXTS = ("summary", "diff", "error")


def account(**result: str) -> bytes:
    return json.dumps({"epoch": 1, "next_seq": 1, "result": {"outcome": "success", **result}}).encode()


def door(whose: LogOwner, name: str) -> str:
    return f"/v1/sandboxes/{whose.sandbox_id}/{name}"


def beat(**changes: Any) -> bytes:
    said = {"state": "running", "busy": "tool", "since": rfc3339(utc_now()), "events": 3, "acked": 2, "epoch": 1}
    return json.dumps({**said, **changes}).encode()


def message(whose: LogOwner, **changes: Any) -> SendMessage:
    said: dict[str, Any] = {
        "sandbox_id": whose.sandbox_id,
        "message_id": new_id("msg"),
        "epoch": 1,
        "text": "Look again.",
        "sender": "guardian",
        "expires_at": utc_now() + timedelta(minutes=5),
    }
    return SendMessage(**{**said, **changes})


def fence(whose: LogOwner) -> FenceSandbox:
    return FenceSandbox(
        sandbox_id=whose.sandbox_id, task_id=whose.task_id, agent_id=whose.agent_id, epoch=1, reason="test"
    )


async def test_a_worker_posts_retries_overlaps_and_finishes(stack: Stack) -> None:
    whose, token = await stack.born()
    events = door(whose, "events")
    for body, status, next_seq in [
        (post(1, 3), 202, 4),
        (post(1, 3), 202, 4),
        (post(3, 4), 202, 7),
        (post(9, 1), 409, 7),
        (post(7, 0), 202, 7),
        (post(7, 700), 202, 707),
        (json.dumps({"epoch": 1, "gap": {"from_seq": 705, "to_seq": 710, "why": "disk"}}).encode(), 202, 711),
    ]:
        answer = await stack.call("POST", events, body, token=token)
        assert (answer[0], answer[1]["next_seq"]) == (status, next_seq)
    result = {"outcome": "success", "summary": "done", "diff": ""}
    finished = json.dumps({"epoch": 1, "next_seq": 711, "result": result}).encode()
    early = json.dumps({"epoch": 1, "next_seq": 710, "result": result}).encode()
    assert (await stack.call("POST", door(whose, "finished"), early, token=token))[:1] == (409,)
    for _ in range(2):
        assert (await stack.call("POST", door(whose, "finished"), finished, token=token))[0] == 202
    assert (await stack.call("POST", events, post(711, 1), token=token))[0] == 410
    frames = await stack.frames(whose.sandbox_id)
    assert [str(frame.kind) for frame in frames] == [
        "opened",
        "events",
        "events",
        "events",
        "events",
        "gap",
        "finished",
    ]
    assert [frame.next for frame in frames] == [1, 4, 7, 507, 707, 711, 711]
    assert decode(bytes(frames[1].events[0].body), dict[str, Any]) == {"n": 1}


async def test_bad_input_is_a_problem_that_names_the_field_and_nothing_of_it_is_stored(stack: Stack) -> None:
    whose, token = await stack.born()
    other, others = await stack.born()
    events, finished = door(whose, "events"), door(whose, "finished")
    chat = "/v1/chat/completions"
    cases: list[tuple[str, str, bytes, str, int, str | None]] = [
        ("POST", events, b"{", token, 422, "$"),
        ("POST", events, b'{"epoch":1,"events":[{"seq":"1"}]}', token, 422, "$.events[0].seq"),
        ("POST", events, post(1, 2, epoch=2), token, 422, "$.epoch"),
        ("POST", events, post(0, 1), token, 422, "$.events[0].seq"),
        ("POST", events, post(1, 1), "", 401, None),
        ("POST", events, post(1, 1), "x.y.z", 401, None),
        ("POST", events, post(1, 1), others, 401, None),
        ("POST", f"/v1/sandboxes/{new_id('sbx')}/events", post(1, 1), token, 401, None),
        ("POST", "/v1/sandboxes/a.%3E/events", post(1, 1), token, 422, "$.sandbox_id"),
        ("POST", "/v1/sandboxes/%2A/finished", post(1, 1), token, 422, "$.sandbox_id"),
        ("POST", events, b"[" * (MAX_BODY_BYTES * 16 + 1), token, 413, "$"),
        ("POST", finished, b'{"epoch":1,"next_seq":0,"result":{"outcome":"success"}}', token, 422, "$.next_seq"),
        ("POST", finished, b'{"epoch":1,"next_seq":1,"result":{"outcome":"great"}}', token, 422, "$.result.outcome"),
        *(("POST", finished, account(**{name: "a\0b"}), token, 422, f"$.result.{name}") for name in _TEXTS),
        ("POST", door(whose, "beat"), beat(state="dancing"), token, 422, "$.state"),
        ("POST", door(whose, "beat"), beat(since="2026-11-21T00:00:00"), token, 422, "$.since"),
        ("GET", door(whose, "inbox") + "?after=-1", b"", token, 422, "$.after"),
        ("GET", door(whose, "inbox") + "?wait_s=31", b"", token, 422, "$.wait_s"),
        ("GET", door(whose, "inbox") + "?wait_s=nan", b"", token, 422, "$.wait_s"),
        ("POST", chat, b'{"messages":[]}', token, 422, "$.model"),
        ("POST", chat, b'{"model":"scripted/hello","messages":[{"role":"x"}]}', token, 422, "$.messages[0].role"),
        ("POST", chat, b'{"model":"scripted/hello","messages":[],"stream":true}', token, 422, "$.stream"),
        ("POST", chat, b'{"model":"other","messages":[]}', token, 403, "$.model"),
        ("POST", chat, b'{"model":"scripted/hello","messages":[]}', token, 404, "$.model"),
        ("GET", events, b"", token, 405, None),
        ("POST", door(whose, "nothing"), b"", token, 404, None),
    ]
    for method, path, body, bearer, status, field in cases:
        code, problem, headers = await stack.call(method, path, body, token=bearer)
        assert (code, problem.get("field")) == (status, field), (path, body[:80], problem)
        assert headers["content-type"] == "application/problem+json"
        assert problem["type"].startswith("urn:muster:problem:")
        assert problem["trace_id"]
    kinds = [frame.kind for frame in await stack.frames(whose.sandbox_id)]
    assert kinds == [FrameKind.OPENED, FrameKind.MODEL_FAILED], "only the call of a model without a script was made"
    assert [frame.kind for frame in await stack.frames(other.sandbox_id)] == [FrameKind.OPENED]


async def test_a_body_without_a_length_is_read_no_further_than_allowed(stack: Stack) -> None:
    whose, token = await stack.born()
    reader, writer = await asyncio.open_unix_connection(stack.socket)
    head = f"POST {door(whose, 'events')} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(200):
        writer.write(chunk)
        await writer.drain()
    async with asyncio.timeout(PATIENCE_S):
        assert b" 413 " in await reader.readline()
    writer.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["epoch", "events", "seq", "gap", "model", "messages", "result"]), inner)
    ),
    max_leaves=10,
)


@cases(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["events", "finished", "beat", "chat"]),
    st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()),
)
async def test_any_request_to_a_worker_endpoint_gets_a_response_or_a_problem(
    stack: Stack, name: str, body: bytes
) -> None:
    whose, token = await stack.born()
    path = "/v1/chat/completions" if name == "chat" else door(whose, name)
    status, problem, _ = await stack.call("POST", path, body, token=token)
    if status != 202:
        assert status in (403, 404, 409, 422), problem
    assert [frame.kind for frame in await stack.frames(whose.sandbox_id)] == [FrameKind.OPENED]


async def test_expired_token_may_still_post_events_but_nothing_else(stack: Stack) -> None:
    whose, token = await stack.born(expires_s=-5)
    assert (await stack.call("POST", door(whose, "events"), post(1, 1), token=token))[0] == 202
    assert (await stack.call("POST", door(whose, "beat"), beat(), token=token))[0] == 202
    assert (await stack.call("GET", door(whose, "inbox"), token=token))[0] == 401
    chat = b'{"model":"scripted/hello","messages":[]}'
    assert (await stack.call("POST", "/v1/chat/completions", chat, token=token))[0] == 401
    await stack.bus.request(fence(whose))
    assert (await stack.call("POST", door(whose, "events"), post(2, 1), token=token))[0] == 410


async def test_after_a_fence_every_endpoint_answers_410_and_late_workers_are_listed(stack: Stack) -> None:
    await ensure_streams(stack.bus, "AUDIT")
    whose, token = await stack.born()
    assert (await stack.call("POST", door(whose, "events"), post(1, 2), token=token))[0] == 202
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(stack.call("GET", door(whose, "inbox") + "?wait_s=30", token=token))
        for _ in range(5):  # A request that is answered now arrived after the outage.
            assert (await stack.call("POST", door(whose, "beat"), beat(), token=token))[0] == 202
        await stack.bus.request(fence(whose))
    assert waiting.result()[0] == 410
    finished = b'{"epoch":1,"next_seq":3,"result":{"outcome":"success"}}'
    chat = b'{"model":"scripted/hello","messages":[]}'
    for _ in range(3):
        assert (await stack.call("POST", door(whose, "events"), post(3, 1), token=token))[0] == 410
        assert (await stack.call("POST", door(whose, "finished"), finished, token=token))[0] == 410
        assert (await stack.call("POST", door(whose, "beat"), beat(), token=token))[0] == 410
        assert (await stack.call("POST", "/v1/chat/completions", chat, token=token))[0] == 410
    assert [str(frame.kind) for frame in await stack.frames(whose.sandbox_id)] == ["opened", "events", "fenced"]
    async with asyncio.timeout(PATIENCE_S):
        refused = list[dict[str, object]]()
        while [one["count"] for one in refused] != [1, 10]:
            subject = "audit.sandbox_gateway.zombie-write"
            told = [decode(one.body, Audited) async for one in stack.journal.replay("AUDIT", subject)]
            refused = [audited.detail for audited in told if audited.who == whose.sandbox_id]
            await asyncio.sleep(0.02)
    assert refused[0]["door"] == "events", "whoever was waiting already has written nothing"


async def test_a_message_reaches_a_waiting_worker_at_once(stack: Stack) -> None:
    whose, token = await stack.born()
    inbox, loop = door(whose, "inbox"), asyncio.get_running_loop()
    assert (await stack.call("GET", inbox, token=token))[1] == {"messages": []}
    position, took_s = 0, list[float]()
    for _ in range(3):
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(stack.call("GET", f"{inbox}?after={position}&wait_s=30", token=token))
            await asyncio.sleep(0.3)
            await stack.bus.request(message(whose, expires_at=utc_now() - timedelta(seconds=1)))
            stored = await stack.bus.request(message(whose, urgent=True))
            sent = loop.time()
        took_s.append(loop.time() - sent)
        (one,) = waiting.result()[1]["messages"]
        assert (one["message_id"], one["position"], one["urgent"]) == (stored.message_id, stored.position, True)
        position = stored.position
    assert min(took_s) < LOOK_AGAIN_S / 2, "it was woken, and did not look by chance"
    assert (await stack.call("GET", f"{inbox}?after={position}", token=token))[1] == {"messages": []}
    began = loop.time()
    assert (await stack.call("GET", f"{inbox}?after={position}&wait_s=0.3", token=token))[1] == {"messages": []}
    assert loop.time() - began > 0.25


async def test_heartbeat_is_forwarded_with_the_gateways_time(stack: Stack) -> None:
    whose, token = await stack.born()
    began = utc_now()
    status, body, _ = await stack.call("POST", door(whose, "beat"), beat(), token=token)
    assert (status, body) == (202, {"next_seq": 1})
    subject = f"sandbox.{partition(whose.sandbox_id)}.{whose.sandbox_id}.beat"
    stored = await eventually(lambda: stack.journal.tail("BEATS", subject))
    assert stored
    passed = decode(stored.body, SandboxBeat)
    assert (passed.sandbox_id, passed.epoch, passed.busy, passed.acked) == (whose.sandbox_id, 1, "tool", 2)
    assert began <= passed.at <= utc_now()


async def test_a_failed_model_call_is_metered_too(stack: Stack) -> None:
    whose, token = await stack.born()
    chat = b'{"model":"scripted/hello","messages":[{"role":"user","content":"hi"}]}'
    status, problem, _ = await stack.call("POST", "/v1/chat/completions", chat, token=token)
    assert (status, problem["detail"]) == (404, "there is no model script 'hello'")
    (stack.home / "scripts" / "hello.json").write_text(
        '{"courses":[{"steps":[{"say":"hello","tool":"finish","args":{"message":"x"}}]}]}'
    )
    first = await stack.call("POST", "/v1/chat/completions", chat, token=token)
    assert first[0] == 200
    choice = first[1]["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "finish", "arguments": '{"message":"x"}'}
    assert choice["finish_reason"] == "tool_calls"
    again = await stack.call("POST", "/v1/chat/completions", chat, token=token)
    assert again[1]["choices"] == first[1]["choices"]
    subject = f"sandbox.{partition(whose.sandbox_id)}.{whose.sandbox_id}.model"
    calls = [decode(one.body, ModelCalled) async for one in stack.journal.replay("MODEL_CALLS", subject)]
    assert [call.status for call in calls] == [404, 200, 200]
    assert calls[1].prompt_tokens > 0


async def beats(stack: Stack) -> int:
    """Return the number of sandboxes with a heartbeat in `BEATS`; 0 while the stream is recreated."""
    try:
        return len(await stack.journal.last_of_each("BEATS", "sandbox.*.*.beat"))
    except Unavailable:
        return 0


async def test_without_nats_the_worker_endpoints_answer_503_within_two_seconds_and_recover(
    tmp_path: Path, nats_server: Restartable
) -> None:
    async with AsyncExitStack() as opened:
        bus = await opened.enter_async_context(open_bus(nats_server.url, "test"))
        stack = Stack(tmp_path, nats_server.url, bus)
        await opened.enter_async_context(stack.pool)
        try:
            await stack.start()
            whose, token = await stack.born()
            events = door(whose, "events")
            assert (await stack.call("POST", events, post(1, 2), token=token))[0] == 202
            await nats_server.kill()
            for path, body in ((events, post(3, 2)), (events, post(3, 2)), (door(whose, "beat"), beat())):
                status, _, headers = await stack.call("POST", path, body, token=token)
                assert (status, headers["retry-after"]) == (503, "1")
            assert await at_best_s(lambda: stack.call("POST", events, post(3, 2), token=token)) < 2.2
            assert (await stack.call("GET", "/ready"))[0] == 503
            assert (await stack.call("GET", "/health"))[0] == 200
            await nats_server.start()
            await stack.until_ready()
            async with asyncio.timeout(PATIENCE_S):
                while (await stack.call("POST", events, post(3, 2), token=token))[0] != 202:
                    continue
            assert [frame.next for frame in await stack.frames(whose.sandbox_id)] == [1, 3, 5]
            # The in-memory stream was lost with the server and is created again.
            async with asyncio.timeout(PATIENCE_S):
                while not await beats(stack):
                    assert (await stack.call("POST", door(whose, "beat"), beat(), token=token))[0] == 202
                    await asyncio.sleep(0.1)
        finally:
            await stack.end()


async def test_secrets_are_removed_before_events_and_results_are_stored(stack: Stack) -> None:
    owner, token = await stack.born()
    path, secret = f"/v1/sandboxes/{owner.sandbox_id}", "ghp_" + "a1B2" * 9
    events = post(1, 1).replace(b'{"n": 1}', json.dumps({"text": f"\n{secret}\n{token}"}).encode())
    assert (await stack.call("POST", f"{path}/events", events, token=token))[0] == 202
    summary = f"I wrote {secret} and {token}"
    said = {"outcome": "success", "summary": summary, "diff": f"+{secret}\n+{token}\n"}
    result = {"epoch": 1, "next_seq": 2, "result": said}
    assert (await stack.call("POST", f"{path}/finished", json.dumps(result).encode(), token=token))[0] == 202
    _, stored, finished = await stack.frames(owner.sandbox_id)
    assert decode(bytes(stored.events[0].body), dict[str, str]) == {
        "text": "\n[redacted: github token]\n[redacted: json web token]"
    }
    kept = decode(bytes(finished.body), dict[str, Any])
    assert kept["summary"] == "I wrote [redacted: github token] and [redacted: json web token]"
    assert withheld_secrets(kept["diff"]) == "sandbox token"
    assert kept["diff"].endswith(f"\n+{secret}\n+[redacted: sandbox token]\n")


async def test_diff_that_only_seems_to_contain_secrets_is_stored_as_it_is(stack: Stack) -> None:
    owner, token = await stack.born()
    diff = '-DB="postgres://app:postgres@localhost/app"\n+KEY="AKIAIOSFODNN7EXAMPLE"\n'
    assert (await stack.call("POST", door(owner, "finished"), account(diff=diff), token=token))[0] == 202
    _, finished = await stack.frames(owner.sandbox_id)
    assert decode(bytes(finished.body), dict[str, Any])["diff"] == diff
