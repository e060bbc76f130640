"""Forbidden model requests over real HTTP are refused before a provider is called or a call is metered."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from muster.common.contracts.sandbox_log import partition
from tests.support.gateway import Stack, without_shim

CHAT = "/v1/chat/completions"


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with without_shim(tmp_path, nats_url) as stack:
        script = {"courses": [{"steps": [{"say": "hello"}]}]}
        (stack.home / "scripts" / "hello.json").write_text(json.dumps(script))
        yield stack


async def test_request_with_a_server_side_tool_or_an_unknown_field_is_refused_and_not_metered(stack: Stack) -> None:
    whose, token = await stack.born()
    request: dict[str, Any] = {"model": "scripted/hello", "messages": [{"role": "user", "content": "hi"}]}
    remote = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}]
    refused: list[tuple[dict[str, Any], str]] = [
        ({"api_base": "http://127.0.0.1:1"}, "$.api_base"),
        ({"web_search_options": {}}, "$.web_search_options"),
        ({"tools": [{"type": "mcp", "server_url": "http://127.0.0.1:1"}]}, "$.tools[0].type"),
        ({"messages": [{"role": "user", "content": remote}]}, "$.messages[0].content[0].image_url.url"),
        ({"max_tokens": 65_537}, "$.max_tokens"),
        ({"n": 3}, "$.n"),
    ]
    for fields, field in refused:
        status, problem, _ = await stack.call("POST", CHAT, {**request, **fields}, token=token)
        assert (status, problem["field"]) == (400, field)
    subject = f"sandbox.{partition(whose.sandbox_id)}.{whose.sandbox_id}.model"
    assert await stack.journal.tail("MODEL_CALLS", subject) is None
    function = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    assert (await stack.call("POST", CHAT, {**request, "tools": [function]}, token=token))[0] == 200
