"""The model server speaks as its providers do, for their own clients and for plain HTTP."""

import asyncio
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.model_server import (
    SHAPES,
    ConnectProxy,
    Good,
    HalfAnswer,
    Hang,
    ModelServer,
    Question,
    RateLimited,
    ServerError,
    Shape,
    Slow,
    Text,
    ToolCall,
)
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:  # Every worker of pytest-xdist imports this module, and the library takes a second.
    import openai

CONVERSATION: list[Any] = [
    {"role": "user", "content": "Repair it.\n\nYou work in /w/x.\nIts tests run with: make test"}
]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "terminal", "parameters": {"type": "object"}}}]
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def openai_server() -> Iterator[ModelServer]:
    with ModelServer("openai") as server:
        yield server


def openai_client(server: ModelServer) -> "openai.OpenAI":
    import openai

    return openai.OpenAI(base_url=server.api_base, api_key="any", max_retries=0, http_client=httpx.Client(verify=False))


def ask(
    server: ModelServer, model: str = "good", headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    body = {"model": model, "messages": CONVERSATION, "max_tokens": 100, "stream": False, **fields}
    # Without TLS certificates, which take 30 ms to load for each client.
    return httpx.post(server.completions_url, json=body, headers={**VERSION, **(headers or {})}, verify=False)


def test_openai_client_gets_the_same_call_whole_and_as_a_stream(openai_server: ModelServer) -> None:
    with openai_client(openai_server) as client:
        whole = client.chat.completions.create(model="good", messages=CONVERSATION, tools=TOOLS)
        chunks = list(
            client.chat.completions.create(
                model="good",
                messages=CONVERSATION,
                tools=TOOLS,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    [call] = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert whole.choices[0].finish_reason == "tool_calls"
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    streamed = "".join(
        part.function.arguments or "" for delta in deltas for part in delta.tool_calls or [] if part.function
    )
    assert streamed == call.function.arguments
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_agent_works_through_its_steps_by_the_number_of_its_messages(openai_server: ModelServer) -> None:
    messages, commands = list(CONVERSATION), list[str]()
    for turn in range(4):
        message = ask(openai_server, messages=messages, tools=TOOLS).json()["choices"][0]["message"]
        [call] = message["tool_calls"]
        commands.append(f"{call['function']['name']} {call['function']['arguments']}")
        messages += [message, {"role": "tool", "tool_call_id": call["id"], "content": f"result {turn}"}]
    assert [command.split()[0] for command in commands] == ["terminal", "file_editor", "terminal", "finish"]
    assert "/w/x/splitbill.py" in commands[1]
    assert "cd /w/x && make test" in commands[2]


def test_repeated_request_gets_the_same_step(openai_server: ModelServer) -> None:
    first, second = (ask(openai_server, tools=TOOLS).json()["choices"][0]["message"] for _ in range(2))
    assert first["tool_calls"][0]["function"] == second["tool_calls"][0]["function"]


def test_steps_are_data() -> None:
    steps = (ToolCall("terminal", {"command": "ls {workspace}; echo {other}"}), Text("Done."))
    with ModelServer("ollama", Good(steps)) as server:
        [call] = ask(server, tools=TOOLS).json()["message"]["tool_calls"]
        answered = [*CONVERSATION, {"role": "assistant", "content": "", "tool_calls": [call]}]
        last = ask(server, tools=TOOLS, messages=answered).json()["message"]
    assert call["function"]["arguments"] == {"command": "ls /w/x; echo {other}"}
    assert last == {"role": "assistant", "content": "Done."}


def test_openai_client_raises_the_class_of_each_error(openai_server: ModelServer) -> None:
    import openai

    with openai_client(openai_server) as client:
        for model, error, code in (
            ("limited", openai.RateLimitError, "rate_limit_exceeded"),
            ("cuda", openai.InternalServerError, None),
            ("overflow", openai.BadRequestError, "context_length_exceeded"),
            ("no-such-model", openai.NotFoundError, "model_not_found"),
        ):
            with pytest.raises(error) as raised:
                client.chat.completions.create(model=model, messages=CONVERSATION)
            assert raised.value.code == code
        assert "good" in [model.id for model in client.models.list()]


def test_half_a_stream_ends_with_an_error_of_the_connection(openai_server: ModelServer) -> None:
    with openai_client(openai_server) as client, pytest.raises(httpx.RemoteProtocolError):
        list(client.chat.completions.create(model="half", messages=CONVERSATION, stream=True))


def test_call_without_its_result_is_refused_as_openai_does(openai_server: ModelServer) -> None:
    call = {"id": "call_7", "type": "function", "function": {"name": "terminal", "arguments": "{}"}}
    messages = [*CONVERSATION, {"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "Go on."}]
    refused = ask(openai_server, messages=messages)
    assert refused.status_code == 400
    assert "did not have response messages: call_7" in refused.json()["error"]["message"]


@pytest.mark.parametrize("shape", SHAPES)
def test_missing_and_wrong_keys_are_refused(shape: Shape) -> None:
    with ModelServer(shape, key="right") as server:
        name, prefix = ("x-api-key", "") if shape == "anthropic" else ("authorization", "Bearer ")
        answers = [ask(server, headers=headers) for headers in ({}, {name: f"{prefix}wrong"}, {name: f"{prefix}right"})]
    assert [answer.status_code for answer in answers] == [401, 401, 200]


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        ("vllm", {"object": "error", "message": "M", "type": "InternalServerError", "param": None, "code": 500}),
        ("openai", {"error": {"message": "M", "type": "server_error", "param": None, "code": None}}),
        ("anthropic", {"type": "error", "error": {"type": "api_error", "message": "M"}, "request_id": "req_test"}),
        ("ollama", {"error": "M"}),
    ],
)
def test_errors_have_the_format_of_their_provider(shape: Shape, body: dict[str, Any]) -> None:
    with ModelServer(shape, ServerError("M")) as server:
        answer = ask(server)
    assert (answer.status_code, answer.json()) == (500, body)


def test_anthropic_requires_the_version_and_a_result_for_each_call() -> None:
    call: dict[str, Any] = {"type": "tool_use", "id": "toolu_7", "name": "terminal", "input": {}}
    broken: list[Any] = [*CONVERSATION, {"role": "assistant", "content": [call]}, {"role": "user", "content": "Go on."}]
    with ModelServer("anthropic") as server:
        body = {"model": "good", "messages": CONVERSATION, "max_tokens": 9}
        unversioned = httpx.post(f"{server.url}/v1/messages", json=body)
        refused = ask(server, messages=broken)
    assert unversioned.json()["error"]["message"] == "anthropic-version: header is required"
    assert "without `tool_result` blocks" in refused.json()["error"]["message"]


def test_anthropic_stream_has_the_named_events_in_order() -> None:
    with ModelServer("anthropic") as server:
        text = ask(server, stream=True, tools=[{"name": "terminal", "input_schema": {}}]).text
    names = re.findall("^event: (.+)$", text, re.MULTILINE)
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert '"stop_reason":"tool_use"' in text


def test_ollama_streams_lines_unless_told_otherwise() -> None:
    with ModelServer("ollama") as server:
        body = {"model": "question", "messages": CONVERSATION}
        answer = httpx.post(f"{server.url}/api/chat", json=body)
    lines = answer.text.splitlines()
    assert '"done":true' in lines[-1]
    assert all('"done":false' in line for line in lines[:-1])


def test_servers_describe_their_models() -> None:
    with ModelServer("vllm", models={"m": Good()}, context_length=4096) as vllm:
        [card] = httpx.get(f"{vllm.api_base}/models").json()["data"]
    with ModelServer("ollama", models={"m": Good()}, context_length=4096) as ollama:
        [tag] = httpx.get(f"{ollama.url}/api/tags").json()["models"]
        shown = httpx.post(f"{ollama.url}/api/show", json={"model": "m"}).json()
        missing = httpx.post(f"{ollama.url}/api/show", json={"model": "n"})
    assert (card["id"], card["max_model_len"]) == ("m", 4096)
    assert tag["name"] == "m"
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["model_info"]["qwen3.context_length"] == 4096
    assert missing.status_code == 404


def test_script_runs_in_order_and_its_last_behaviour_repeats() -> None:
    with ModelServer("openai", RateLimited(retry_after_s=2), ServerError(), Question()) as server:
        answers = [ask(server) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [429, 500, 200, 200]
        assert answers[0].headers["retry-after"] == "2"
        server.script = [ServerError("later", 503)]
        assert ask(server).status_code == 503


async def test_hanging_request_is_seen_and_answered_after_its_release() -> None:
    with ModelServer("openai", Hang(Question())) as server:
        async with httpx.AsyncClient() as client, asyncio.TaskGroup() as tasks:
            body = {"model": "good", "messages": CONVERSATION}
            asked = tasks.create_task(
                client.post(server.completions_url, json=body, headers={"x-mark": "1"}, timeout=PATIENCE_S)
            )
            [seen] = await server.wait_for(1)
            assert not asked.done()
            server.release()
            assert (await asked).status_code == 200
        assert (seen.path, seen.headers["x-mark"], seen.body["model"]) == ("/v1/chat/completions", "1", "good")
        assert server.connections == 1


async def test_client_that_leaves_a_hanging_request_is_counted() -> None:
    with ModelServer("openai", Hang()) as server:
        body = {"model": "good", "messages": CONVERSATION}
        with suppress(httpx.ReadTimeout):
            async with httpx.AsyncClient(timeout=0.2) as client:
                await client.post(server.completions_url, json=body)
        await server.wait_for_disconnects(1)


def test_slow_server_answers_after_its_time() -> None:
    with ModelServer("openai", Slow(Question(), after_s=0.1)) as server:
        assert ask(server).elapsed.total_seconds() >= 0.1


def test_half_an_answer_is_shorter_than_its_length() -> None:
    with ModelServer("vllm", HalfAnswer()) as server, pytest.raises(httpx.RemoteProtocolError):
        ask(server)


async def test_proxy_notes_each_host_and_reaches_only_this_machine() -> None:
    proxy = ConnectProxy()
    with ModelServer("openai") as server:
        async with proxy.listening() as url, httpx.AsyncClient(proxy=url) as client:
            reached = await client.get(f"{server.api_base}/models")
            refused = await client.get("http://models.invalid/v1/models")
            with pytest.raises(httpx.ProxyError):
                await client.get("https://models.invalid/v1/models")
    assert (reached.status_code, refused.status_code) == (200, 502)
    assert proxy.asked == [server.url.removeprefix("http://"), "models.invalid:80", "models.invalid:443"]


async def test_proxy_tunnels_to_this_machine() -> None:
    proxy = ConnectProxy()
    with ModelServer("ollama") as server:
        target = server.url.removeprefix("http://")
        async with proxy.listening() as url:
            reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
            writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"GET /api/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b'"version"' in await reader.read()
            writer.close()
    assert proxy.asked == [target]


async def test_person_can_start_the_server_from_a_shell() -> None:
    command = [sys.executable, "-m", "tests.support.model_server", "--shape", "vllm", "--behaviour", "cuda"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout
        url = (await process.stdout.readline()).decode().split()[-1]
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{url}/chat/completions", json={"model": "good", "messages": CONVERSATION})
    finally:
        process.terminate()
        await process.wait()
    assert (answer.status_code, answer.json()["code"]) == (500, 500)
