"""The gateway calls the models of `models.toml` at their servers and nowhere else, and says why a call failed."""

import os
from base64 import b64encode
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from muster.common.faults import InvalidMessage
from muster.common.model_entries import Kind
from muster.sandbox_gateway.models.adapters.configured_models import ConfiguredModels
from muster.sandbox_gateway.models.adapters.litellm_models import LiteLLMModels
from muster.sandbox_gateway.models.adapters.threads import ModelThreads
from muster.sandbox_gateway.models.domain.answers import Completion, trouble_with
from muster.sandbox_gateway.models.domain.provider_errors import (
    ModelContextExceeded,
    ModelFault,
    ModelKeyRefused,
    ModelRateLimited,
    ModelRefused,
    ModelServerFailed,
    ModelTimedOut,
    ModelUnknown,
    ModelUnreachable,
    ModelUnreadable,
)
from tests.support.model_server import (
    Behaviour,
    ContextOverflow,
    Empty,
    Garbage,
    Good,
    HalfAnswer,
    Hang,
    Length,
    ModelServer,
    RateLimited,
    Redirect,
    ServerError,
    Shape,
    WrongShape,
)

pytestmark = [
    pytest.mark.stress,  # The import of LiteLLM takes 5 s of CPU.
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),  # LiteLLM's types, at a first call.
]

KINDS: dict[Shape, Kind] = {"openai": "openai", "vllm": "vllm", "anthropic": "anthropic", "ollama": "ollama"}
KEY = "the/key-of-the-entry"
STRANGE = "a-key-of-the-environment"
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "terminal", "parameters": {"type": "object", "properties": {}}},
}
REQUEST: dict[str, Any] = {
    "model": "own",
    "messages": [{"role": "user", "content": "Fix the bug. " * 20}],
    "tools": [TOOL],
}
FAILURES: dict[str, tuple[Behaviour, type[ModelFault], str, int | None]] = {
    "rate limit": (RateLimited(7), ModelRateLimited, "", 429),
    "server error": (ServerError("CUDA out of memory"), ModelServerFailed, "CUDA out of memory", 500),
    "no JSON": (Garbage(), ModelUnreadable, "the provider's answer cannot be read", None),
    "wrong JSON": (WrongShape(), ModelUnreadable, "the provider's answer cannot be read", None),
    "half an answer": (HalfAnswer(), ModelUnreachable, "ended during the answer", None),
    "silence": (Hang(), ModelTimedOut, "did not answer in time", None),
    "context overflow": (ContextOverflow(10), ModelContextExceeded, "context length exceeded", 400),
}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import LiteLLM before the first test, whose deadline would otherwise include the import."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import_module("litellm")


@pytest.fixture(params=sorted(KINDS))
def server(request: pytest.FixtureRequest) -> Generator[ModelServer]:
    with ModelServer(request.param, key=KEY) as server:
        yield server


class Gateway:
    """The gateway's adapter with a `models.toml` that a test may change."""

    def __init__(self, folder: Path) -> None:
        self._file, self._threads = folder / "models.toml", ModelThreads()
        configured = ConfiguredModels(self._file, {"OWN_KEY": KEY})
        self.models = LiteLLMModels(self._threads, configured, timeout_s=2.0, env={})

    def configure(self, server: ModelServer, **fields: Any) -> None:
        table = {"kind": KINDS[server.shape], "model": "good", "base_url": server.api_base, "key_env": "OWN_KEY"}
        own = {name: value for name, value in (table | fields).items() if value is not None}
        self._file.write_text(tomli_w.dumps({"models": {"own": own}}))

    async def complete(self, **fields: Any) -> Completion:
        return await self.models.complete(REQUEST | fields)

    def close(self) -> None:
        self._threads.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("models"))
    yield gateway
    gateway.close()


@pytest.fixture(autouse=True)
def configured(gateway: Gateway, server: ModelServer) -> None:
    gateway.configure(server)


async def test_call_goes_to_the_configured_server_with_its_own_key_only(
    server: ModelServer, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OLLAMA_API_KEY"):
        monkeypatch.setenv(name, STRANGE)
    with ModelServer("ollama") as other:
        monkeypatch.setenv("OLLAMA_API_BASE", other.api_base)
        assert await gateway.models.price("own", 1, 1) is None
        answer = await gateway.complete()

        assert answer.finish_reason == "tool_calls"
        assert len(server.requests) == 1
        assert KEY in str(server.requests[0].headers)
        assert STRANGE not in str(server.requests[0].headers)
        assert other.connections == 0


async def test_redirect_to_another_server_is_not_followed(server: ModelServer, gateway: Gateway) -> None:
    with ModelServer("openai") as other:
        for script in ([Redirect(other.completions_url)], [HalfAnswer(), Redirect(other.completions_url)]):
            server.script = list(script)
            with pytest.raises((ModelRefused, ModelUnreachable)):
                await gateway.complete()
            with pytest.raises(ModelRefused, match="redirects to"):
                await gateway.complete()
        assert other.connections == 0


@pytest.mark.parametrize("name", sorted(FAILURES))
async def test_failed_call_has_its_kind_the_sentence_of_the_provider_and_its_status(
    server: ModelServer, gateway: Gateway, name: str
) -> None:
    behaviour, expected, sentence, status = FAILURES[name]
    server.script = [behaviour]
    with pytest.raises(expected) as failed:
        await gateway.complete()
    text = str(failed.value)
    assert sentence in text
    assert status in (failed.value.provider_status, None)
    assert failed.value.asked_pause_s == (7 if name == "rate limit" else 0)
    assert not any(word in text for word in ("Traceback", "Exception - ", "litellm.", KEY))


async def test_key_that_a_provider_repeats_in_its_error_is_not_shown(server: ModelServer, gateway: Gateway) -> None:
    for spelling in (KEY, b64encode(KEY.encode()).decode(), KEY.replace("/", "%2F")):
        server.script = [ServerError(f"Incorrect API key provided: {spelling}")]
        with pytest.raises(ModelServerFailed, match=r"Incorrect API key provided: \[key\]"):
            await gateway.complete()
    server.script = [Redirect(f"http://elsewhere.invalid/{KEY}")]
    with pytest.raises(ModelRefused) as refused:
        await gateway.complete()
    assert KEY not in str(refused.value)


async def test_long_error_page_is_cut(server: ModelServer, gateway: Gateway) -> None:
    server.script = [ServerError("a" * 3_000_000)]
    with pytest.raises(ModelFault) as failed:
        await gateway.complete()
    assert len(str(failed.value)) <= 2_100


async def test_call_of_a_server_on_this_machine_uses_no_proxy(
    server: ModelServer, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    await gateway.complete()
    assert server.completions


async def test_answer_that_is_cut_or_empty_is_recognized(server: ModelServer, gateway: Gateway) -> None:
    server.script = [Length(), Empty(), Good()]
    cut = await gateway.complete(max_tokens=100)
    empty, good = await gateway.complete(), await gateway.complete()
    kinds = [trouble and trouble.kind for trouble in map(trouble_with, (cut, empty, good))]
    assert kinds == ["truncated", "empty", None]


async def test_unknown_model_a_wrong_key_and_a_server_that_is_gone_are_told_with_their_cure(
    server: ModelServer, gateway: Gateway
) -> None:
    gateway.configure(server, model="nothing")
    with pytest.raises(ModelUnknown) as unknown:
        await gateway.complete()
    assert server.api_base in str(unknown.value)
    gateway.configure(server)
    server.key = "another-key"
    with pytest.raises(ModelKeyRefused, match="OWN_KEY") as refused:
        await gateway.complete()
    assert KEY not in str(refused.value)
    gateway.configure(server, base_url="http://127.0.0.1:1")
    with pytest.raises(ModelUnreachable, match=r"http://127\.0\.0\.1:1"):
        await gateway.complete()


async def test_settings_of_the_entry_and_its_prices_are_used(server: ModelServer, gateway: Gateway) -> None:
    gateway.configure(server, input_usd_per_million=1_000_000.0, output_usd_per_million=0.0, context_tokens=5_000)
    answer = await gateway.complete()
    assert answer.cost_usd == answer.prompt_tokens
    if server.shape == "ollama":
        assert server.requests[0].body["options"]["num_ctx"] == 5_000


async def test_server_without_a_key_gets_no_key_of_the_environment(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OLLAMA_API_KEY"):
        monkeypatch.setenv(name, STRANGE)
    with ModelServer("vllm") as server:
        gateway.configure(server, key_env=None)
        await gateway.complete()
        assert STRANGE not in str(server.requests[0].headers)


def test_missing_key_is_told_before_a_call(gateway: Gateway, server: ModelServer) -> None:
    gateway.configure(server, key_env="NOT_SET")
    with pytest.raises(InvalidMessage, match="set NOT_SET"):
        gateway.models.check("own")
