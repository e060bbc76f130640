"""LiteLLM, the caller in the gateway, understands every behaviour of every shape.

The library `openai` is imported inside the tests. Every worker of pytest-xdist imports this module, and the library
takes more than a second of CPU.
"""

import importlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.model_server import BY_NAME, SHAPES, ModelServer, Redirect, Shape

pytestmark = pytest.mark.stress  # The import of LiteLLM takes 5 s of CPU.

PROVIDERS: dict[Shape, str] = {
    "openai": "openai",
    "vllm": "hosted_vllm",
    "anthropic": "anthropic",
    "ollama": "ollama_chat",
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "terminal", "parameters": {"type": "object", "properties": {}}}}
]
MESSAGES: list[Any] = [{"role": "user", "content": "Repair it.\n\nYou work in /w/x.\nIts tests run with: make test"}]


@pytest.fixture(scope="module")
def litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # No download at the import.
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True
    free = {"mode": "chat", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
    # Without a price LiteLLM asks Ollama at its default address, which is not this server.
    for model in BY_NAME:
        litellm.model_cost[f"ollama_chat/{model}"] = {"litellm_provider": "ollama_chat", **free}
    return litellm


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[Shape, ModelServer]]:
    with ExitStack() as running:
        yield {shape: running.enter_context(ModelServer(shape)) for shape in SHAPES}


@pytest.fixture(params=SHAPES)
def server(request: pytest.FixtureRequest, servers: dict[Shape, ModelServer]) -> ModelServer:
    servers[request.param].script = []
    return servers[request.param]


@pytest.fixture(autouse=True)
async def closed_clients(litellm: Any) -> AsyncIterator[None]:
    """LiteLLM keeps its clients for the event loop of one test; they are closed with this loop."""
    yield
    await litellm.close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()


async def complete(litellm: Any, server: ModelServer, model: str, **options: Any) -> Any:
    given: dict[str, Any] = {
        "api_key": "k",
        "tools": TOOLS,
        "max_tokens": 100,
        "messages": MESSAGES,
        "num_retries": 0,
        **options,
    }
    return await litellm.acompletion(model=f"{PROVIDERS[server.shape]}/{model}", api_base=server.api_base, **given)


async def test_agent_works_through_its_steps(litellm: Any, server: ModelServer) -> None:
    messages, tools = list[Any](MESSAGES), list[str]()
    for turn in range(4):
        answer = await complete(litellm, server, "good", messages=messages)
        message = answer.choices[0].message
        [call] = message.tool_calls
        tools.append(call.function.name)
        messages += [message, {"role": "tool", "tool_call_id": call.id, "content": f"result {turn}"}]
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.usage.prompt_tokens > 0
    assert tools == ["terminal", "file_editor", "terminal", "finish"]


async def test_messages_without_work_are_understood(litellm: Any, server: ModelServer) -> None:
    endings: dict[str, tuple[str, bool, bool]] = {}
    for model in ("empty", "question", "runaway", "length"):
        choice = (await complete(litellm, server, model)).choices[0]
        endings[model] = (choice.finish_reason, bool(choice.message.content), bool(choice.message.tool_calls))
    assert endings == {
        "empty": ("stop", False, False),
        "question": ("stop", True, False),
        "runaway": ("tool_calls", True, True),
        # The text of an Ollama model ends before it is a call.
        "length": ("length", True, server.shape != "ollama"),
    }


async def test_enough_tokens_complete_the_call(litellm: Any, server: ModelServer) -> None:
    choice = (await complete(litellm, server, "length", max_tokens=16_384)).choices[0]
    assert choice.finish_reason == "tool_calls"


async def test_failures_have_the_status_and_sentence_of_the_server(litellm: Any, server: ModelServer) -> None:
    from openai import APIError

    async def failure(model: str) -> tuple[int, str]:
        with pytest.raises(APIError) as raised:
            await complete(litellm, server, model)
        error: Any = raised.value
        return error.status_code, error.message

    failures = {model: await failure(model) for model in ("limited", "cuda", "unavailable", "overflow", "no-such")}
    assert [status for status, _ in failures.values()] == [429, 500, 503, 400, 404]
    assert "CUDA out of memory" in failures["cuda"][1]
    assert "no-such" in failures["no-such"][1]


async def test_broken_answers_raise(litellm: Any, server: ModelServer) -> None:
    from openai import APIError

    for model in ("garbage", "wrong-shape", "half"):
        with pytest.raises(APIError):
            await complete(litellm, server, model)


async def test_hanging_server_runs_into_the_timeout(litellm: Any, server: ModelServer) -> None:
    with pytest.raises(litellm.Timeout):
        await complete(litellm, server, "hang", timeout=0.2)


async def test_wrong_key_is_an_authentication_error(litellm: Any) -> None:
    for shape in SHAPES:
        with ModelServer(shape, key="right") as server, pytest.raises(litellm.AuthenticationError):
            await complete(litellm, server, "good")


async def test_redirect_reaches_the_other_server(litellm: Any, server: ModelServer) -> None:
    with ModelServer(server.shape) as other:
        server.script = [Redirect(other.completions_url)]
        await complete(litellm, server, "good")
        assert len(other.completions) == 1
