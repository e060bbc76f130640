"""Calls of real models through LiteLLM in the gateway, to a provider double with OpenAI's HTTP API."""

import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, override

import pytest

from muster.common.bus.connection import open_bus
from muster.common.contract import decode
from muster.common.contracts.gateway import CheckSandbox
from muster.common.contracts.model_calls import ModelCalled
from muster.common.contracts.sandbox_log import partition
from muster.common.faults import InvalidMessage
from tests.support.gateway import Stack

CANARY = "canary-provider-key"


class Provider:
    """A provider that sends the configured responses and stores the requests."""

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []

    def answer(self, body: bytes, key: str) -> tuple[int, bytes]:
        self.asked.append(json.loads(body))
        self.keys.append(key)
        if self.status != 200:
            return self.status, b'{"error":{"message":"no","type":"x","code":"x"}}'
        message = {"role": "assistant", "content": "hello"}
        whole = {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        }
        return 200, json.dumps(whole).encode()


@pytest.fixture
def provider() -> Iterator[tuple[Provider, str]]:
    told = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, answer = told.answer(body, self.headers.get("authorization", ""))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        @override
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield told, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str, provider: tuple[Provider, str]) -> AsyncGenerator[Stack]:
    async with AsyncExitStack() as opened:
        bus = await opened.enter_async_context(open_bus(nats_url, "test"))
        made = Stack(tmp_path, nats_url, bus)
        made.env |= {"OPENAI_API_KEY": CANARY, "OPENAI_API_BASE": provider[1], "ANTHROPIC_API_KEY": " "}
        made.env |= {"ANTHROPIC_AUTH_TOKEN": "", "AZURE_API_KEY": "", "AZURE_API_BASE": "http://127.0.0.1:1"}
        made.env |= {"AZURE_API_VERSION": "2025-01-01", "MUSTER_MODEL_PROVIDERS": "azure,ollama"}
        await opened.enter_async_context(made.pool)
        try:
            await made.start()
            yield made
        finally:
            await made.end()


@pytest.mark.stress
async def test_a_real_model_is_asked_with_the_gateways_key_and_metered(
    stack: Stack, provider: tuple[Provider, str]
) -> None:
    told, _ = provider
    whose, token = await stack.born(model="openai/gpt-4o-mini")
    request = {
        "model": "openai/gpt-4o-mini",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "user": "somebody",
        "stream": False,
    }
    status, answer, _ = await stack.call("POST", "/v1/chat/completions", request, token=token)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "hello")
    assert told.keys == [f"Bearer {CANARY}"]
    assert told.asked[0]["temperature"] == 0.5
    assert "user" not in told.asked[0]
    short = {**request, "model": "gpt-4o-mini"}  # A client of the OpenAI protocol raises this.
    status, _, _ = await stack.call("POST", "/v1/chat/completions", short, token=token)
    assert status == 200
    for upstream, expected in ((429, 429), (401, 403), (404, 404), (400, 400), (500, 503)):
        told.status = upstream
        status, problem, _ = await stack.call("POST", "/v1/chat/completions", request, token=token)
        assert status == expected, problem
        assert CANARY not in json.dumps(problem)
    assert len(told.asked) == 7  # The gateway itself repeats no call.
    subject = f"sandbox.{partition(whose.sandbox_id)}.{whose.sandbox_id}.model"
    calls = [decode(one.body, ModelCalled) async for one in stack.journal.replay("MODEL_CALLS", subject)]
    assert [call.status for call in calls] == [200, 200, 429, 403, 404, 400, 503]
    assert (calls[0].provider, calls[0].prompt_tokens, calls[0].completion_tokens) == ("openai", 11, 7)
    assert calls[0].cost_usd > 0


async def test_model_without_a_key_is_permanently_refused_before_a_call(stack: Stack) -> None:
    lacking = "anthropic/claude-sonnet-4-5"
    await stack.bus.request(CheckSandbox(package="echo", model="openai/gpt-4o-mini"))
    # This provider may need no key, so only a call shows it.
    await stack.bus.request(CheckSandbox(package="echo", model="ollama/tiny"))
    for model, says in ((lacking, "ANTHROPIC_API_KEY"), ("scripted/nowhere", "no model script 'nowhere'")):
        with pytest.raises(InvalidMessage, match=says) as refused:
            await stack.bus.request(CheckSandbox(package="echo", model=model))
        assert refused.value.field == "$.model"
    answers: list[tuple[str, int, str]] = [
        (lacking, 403, "set ANTHROPIC_API_KEY"),
        ("azure/any", 403, "finds no credentials"),
        ("nobodys/model", 404, "write provider/model"),
    ]
    for model, status, says in answers:
        _, token = await stack.born(model=model)
        request = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        told, problem, _ = await stack.call("POST", "/v1/chat/completions", request, token=token)
        assert told == status
        assert says in problem["detail"]
