"""Model names with a network address or a provider that is not allowed are refused without a connection."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from muster.common.contracts.gateway import CheckSandbox
from muster.common.faults import InvalidMessage
from tests.support.eventually import eventually
from tests.support.gateway import Stack, without_shim
from tests.support.patience import PATIENCE_S

CHAT = "/v1/chat/completions"


class InternalAddress:
    """A TCP server that counts connections and sends `answer` to each; without `answer` it sends nothing."""

    def __init__(self, answer: bytes = b"") -> None:
        self._answer = answer
        self.connections = 0
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator["InternalAddress"]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        await reader.read(1)
        writer.write(self._answer)
        if self._answer:
            writer.close()


def chat(model: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with without_shim(tmp_path, nats_url) as stack:
        yield stack


async def test_model_that_names_an_address_is_refused_and_the_address_sees_no_connection(stack: Stack) -> None:
    async with InternalAddress().serving() as internal:
        at = f"127.0.0.1:{internal.port}"
        models = [
            *(f"{provider}/http://{at}" for provider in ("oobabooga", "petals", "ollama", "openai", "custom")),
            *(f"http://{at}/v1", f"hosted_vllm/{at}", f"lm_studio/{at}", "gemini/../../internal", "openai/"),
            *("openai/a b", "openai//x", "github_copilot/gpt-4o", "openai/chatgpt/x", f"openai/{'x' * 300}"),
        ]
        for model in models:
            with pytest.raises(InvalidMessage, match="write provider/model") as refused:
                await stack.bus.request(CheckSandbox(package="echo", model=model))
            assert refused.value.field == "$.model"
            with pytest.raises(InvalidMessage) as refused:
                await stack.create(model=model)
            assert refused.value.field == "$.model"
            _, token = await stack.born(model=model)
            status, problem, _ = await stack.call("POST", CHAT, chat(model), token=token)
            assert (status, problem["field"]) in ((400, "$.model"), (404, "$.model")), model
            assert "write provider/model" in problem["detail"]
        assert internal.connections == 0


@pytest.mark.stress
async def test_provider_with_blocking_code_delays_no_other_request(
    tmp_path: Path, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device login of GitHub Copilot sleeps in the calling thread. A stress test, because it imports LiteLLM."""
    code = b'{"device_code":"d","user_code":"u","verification_uri":"http://127.0.0.1/"}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    pending = b'{"error":"authorization_pending"}'
    async with (
        InternalAddress(head % len(code) + code).serving() as device_codes,
        InternalAddress(head % len(pending) + pending).serving() as access_tokens,
    ):
        monkeypatch.setenv("MUSTER_MODEL_PROVIDERS", "github_copilot")
        monkeypatch.setenv("GITHUB_COPILOT_TOKEN_DIR", str(tmp_path / "copilot"))
        monkeypatch.setenv("GITHUB_COPILOT_DEVICE_CODE_URL", f"http://127.0.0.1:{device_codes.port}/")
        monkeypatch.setenv("GITHUB_COPILOT_ACCESS_TOKEN_URL", f"http://127.0.0.1:{access_tokens.port}/")
        async with without_shim(tmp_path, nats_url) as stack:
            whose, token = await stack.born(model="github_copilot/gpt-4o")
            async with asyncio.TaskGroup() as tasks:
                call = tasks.create_task(stack.call("POST", CHAT, chat("github_copilot/gpt-4o"), token=token))
                await eventually(lambda: access_tokens.connections, within_s=60)
                path = f"/v1/sandboxes/{whose.sandbox_id}/inbox?wait_s=0"
                async with asyncio.timeout(PATIENCE_S):
                    assert (await stack.call("GET", path, token=token))[0] == 200
                assert not call.done()  # the login still sleeps
                call.cancel()
