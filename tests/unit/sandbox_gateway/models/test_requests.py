"""Fields of a model request that the gateway passes on, removes or refuses."""

from typing import Any

import pytest

from muster.sandbox_gateway.models.domain.provider_errors import ModelRefused
from muster.sandbox_gateway.models.domain.requests import MOST_IMAGE_BYTES, request_to_provider

ASK: dict[str, Any] = {"model": "openai/x", "messages": [{"role": "user", "content": "hi"}]}
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}},
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def passed(**fields: Any) -> dict[str, Any]:
    return request_to_provider({**ASK, **fields}, most_tokens=1000)


def user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def image(url: object) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def said(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "content": "", **fields}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: "x"}, f"$.{name}")
        for name in (
            *("api_base", "base_url", "api_key", "extra_body", "extra_headers", "headers", "mcp", "mcp_servers"),
            *("web_search_options", "fallbacks", "mock_response", "functions", "custom_llm_provider", "modalities"),
            *("litellm_params", "thinking", "plugins", "search_parameters", "container"),
        )
    ),
    ({"tools": [FUNCTION, {"type": "mcp", "server_url": "http://x"}]}, "$.tools[1].type"),
    *(
        ({"tools": [{"type": kind, "name": "t", "function": FUNCTION["function"]}]}, "$.tools[0].type")
        for kind in ("web_search", "web_search_20250305", "web_fetch", "code_execution", "code_interpreter", None)
    ),
    ({"tools": [{"google_search": {}}]}, "$.tools[0].type"),
    ({"tools": [{"type": "function", "google_search": {}}]}, "$.tools[0].function.name"),
    ({"tools": "all"}, "$.tools"),
    ({"tool_choice": {"type": "web_search"}}, "$.tool_choice"),
    ({"tool_choice": ["auto"]}, "$.tool_choice"),
    ({"response_format": {"type": "x"}}, "$.response_format"),
    *(
        (user({"type": "text", "text": "a"}, image(url)), "$.messages[0].content[1].image_url.url")
        for url in (
            *("https://example.org/a.png", "http://127.0.0.1/", "HTTP://x", "file:///etc/passwd", "gs://b/o", "x"),
            *("data:image/png;base64,gs://b/o.png", "data:image/png;base64,https://10.0.0.1/a.png"),
            *("data:text/html;base64,aaaa", None, PIXEL + "A" * MOST_IMAGE_BYTES),
        )
    ),
    (user({"type": "image_url", "image_url": "https://x/a.png"}), "$.messages[0].content[0].image_url.url"),
    *(
        (user({"type": kind, kind: {"url": "http://x", "file_id": "http://x"}}), "$.messages[0].content[0].type")
        for kind in ("file", "video_url", "document", "image", "input_audio", "web_search_tool_result")
    ),
    (user("text"), "$.messages[0].content[0].type"),
    (user({"type": "text", "text": {"url": "http://x"}}), "$.messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": {"url": "x"}}]}, "$.messages[0].content"),
    (said(thinking_blocks=[{"type": "image"}]), "$.messages[0].thinking_blocks[0].type"),
    (said(thinking_blocks=[image("https://x/a.png")]), "$.messages[0].thinking_blocks[0].image_url.url"),
    (said(tool_calls=[{"id": "1", "type": "mcp"}]), "$.messages[0].tool_calls[0]"),
    ({"n": 2}, "$.n"),
    ({"max_tokens": 1001}, "$.max_tokens"),
    ({"max_completion_tokens": 2**70}, "$.max_completion_tokens"),
    ({"max_tokens": -1}, "$.max_tokens"),
    ({"max_tokens": "9"}, "$.max_tokens"),
    ({"reasoning_effort": {"effort": "high"}}, "$.reasoning_effort"),
]


@pytest.mark.parametrize(("fields", "field"), REFUSED)
def test_request_field_that_reaches_another_network_target_is_refused_by_name(
    fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(ModelRefused) as refused:
        passed(**fields)
    assert (refused.value.status, refused.value.field) == (400, field)


def test_fields_of_a_function_beyond_its_declaration_are_not_passed_on() -> None:
    tool = {**FUNCTION, "google_search": {}, "cache_control": {"type": "ephemeral", "url": "x"}, "server_url": "x"}
    assert passed(tools=[tool])["tools"] == [{**FUNCTION, "cache_control": {"type": "ephemeral"}}]


def test_a_conversation_of_an_agent_passes_unchanged() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    cached = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": [cached]},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image(PIXEL)]},
        {"role": "assistant", "content": None, "tool_calls": [call], "thinking_blocks": [thought]},
        {"role": "tool", "tool_call_id": "c1", "name": "look", "content": [image(PIXEL)]},
        {"role": "assistant", "content": "A dot.", "reasoning_content": "hm"},
    ]
    fields: dict[str, Any] = {
        "messages": messages,
        "tools": [FUNCTION],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "max_tokens": 1000,
        "reasoning_effort": "high",
        "temperature": 0.5,
        "n": 1,
    }
    assert passed(**fields, stream=False, user="u", metadata={}) == fields


def test_messages_keep_only_what_a_conversation_needs() -> None:
    raw = {"compaction_blocks": [image("https://x")], "thought_signatures": ["s"]}
    kept = passed(**said(provider_specific_fields=raw, images=[image("https://x")], annotations=[]))
    assert kept["messages"] == [
        {"role": "assistant", "content": "", "provider_specific_fields": {"thought_signatures": ["s"]}}
    ]


def test_remote_images_pass_only_where_a_setting_allows_them() -> None:
    request = {**ASK, **user(image("https://example.org/a.png"))}
    kept = request_to_provider(request, most_tokens=1, remote_images=True)
    assert kept["messages"] == request["messages"]
    for url in ("file:///etc/passwd", "gs://b/o", "ftp://x"):
        with pytest.raises(ModelRefused):
            request_to_provider({**ASK, **user(image(url))}, most_tokens=1, remote_images=True)
