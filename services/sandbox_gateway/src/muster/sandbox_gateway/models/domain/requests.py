"""Builds the request that the gateway sends to a model provider, from the harmless parts of a sandbox's request.

The provider runs a request with the deployment's API key, on machines that can reach the internet while the sandbox
cannot. So a request is refused if a field chooses an address, a header or a tool of the provider (`api_base`,
`extra_headers`, tools other than functions). Images that the provider would have to fetch are refused too. Providers
read more fields of messages than OpenAI's API documents. So each message is copied with only the parts that a
conversation needs.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from muster.sandbox_gateway.models.domain.provider_errors import ModelRefused

PASSED = frozenset(
    {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "stop", "seed", "n"),
        *("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "reasoning_effort", "verbosity"),
        *("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"),
    }
)
LEFT_OUT = frozenset(
    {
        *("model", "stream", "stream_options", "user", "metadata", "store", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention"),
    }
)
"""Fields that client libraries add and that change no answer. They are accepted, but not sent to the provider."""
MOST_IMAGE_BYTES = 5 << 20
MOST_TOOLS = 512
_IMAGE = re.compile(r"data:image/(?:png|jpe?g|gif|webp);base64,", re.IGNORECASE)
_REMOTE = re.compile(r"https?://", re.IGNORECASE)
_CHOICES = (None, "none", "auto", "required")
_FORMATS = ("text", "json_object", "json_schema")
_MESSAGE = ("role", "content", "name", "tool_call_id", "refusal", "reasoning_content")
_PARTS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "refusal": ("refusal",),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
}
_SIGNATURES = ("thought_signature", "thought_signatures")
"""Fields with signatures of a provider's earlier answers. The provider requires them in the next request."""


def request_to_provider(request: Mapping[str, Any], *, most_tokens: int, remote_images: bool = False) -> dict[str, Any]:
    """Return the request to send to a model provider. Raises `ModelRefused` with the field that is not allowed."""
    for name in request:
        if name not in PASSED and name not in LEFT_OUT:
            text = f"the field {name[:64]!r} is not sent to model providers; leave it out"
            raise ModelRefused(text, field=f"$.{name[:64]}")
    passed = {name: value for name, value in request.items() if name in PASSED and value is not None}
    _check_bounds(passed, most_tokens)
    if "tools" in passed:
        passed["tools"] = _tools(passed["tools"])
    if "tool_choice" in passed:
        passed["tool_choice"] = _choice(passed["tool_choice"])
    if "response_format" in passed and _type(passed["response_format"]) not in _FORMATS:
        raise ModelRefused(
            f"the type in response_format must be one of: {', '.join(_FORMATS)}", field="$.response_format"
        )
    passed["messages"] = [
        _message(message, f"$.messages[{index}]", remote_images)
        for index, message in enumerate(cast("list[dict[str, Any]]", passed["messages"]))
    ]
    return passed


def _check_bounds(passed: Mapping[str, Any], most_tokens: int) -> None:
    if passed.get("n", 1) != 1:
        raise ModelRefused("a model call returns one answer: leave the field `n` out, or set `n` to 1", field="$.n")
    for name in ("max_tokens", "max_completion_tokens"):
        most = passed.get(name, 1)
        if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= most_tokens:
            text = f"{name} must be from 1 to {most_tokens}; an operator can raise MUSTER_MODEL_MAX_TOKENS"
            raise ModelRefused(text, field=f"$.{name}")
    if not isinstance(passed.get("reasoning_effort", ""), str):
        raise ModelRefused("the field reasoning_effort must be a text, such as high", field="$.reasoning_effort")


def _tools(tools: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any JSON
    if not isinstance(tools, list) or len(cast("list[Any]", tools)) > MOST_TOOLS:
        raise ModelRefused(f"the field tools must be a list of at most {MOST_TOOLS} tools", field="$.tools")
    return [_tool(tool, f"$.tools[{index}]") for index, tool in enumerate(cast("list[Any]", tools))]


def _tool(tool: Any, field: str) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    if _type(tool) != "function":
        text = "only tools of the type function are allowed: other tools run at the provider, outside of the sandbox"
        raise ModelRefused(text, field=f"{field}.type")
    match tool:
        case {"function": {"name": str()} as function}:
            kept = _only(cast("dict[str, Any]", function), "name", "description", "parameters", "strict")
            return {"type": "function", "function": kept, **_cached(tool)}
        case _:
            raise ModelRefused("the tool's function has no name; set one", field=f"{field}.function.name")


def _choice(choice: Any) -> Any:  # noqa: ANN401 - any JSON
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return {"type": "function", "function": {"name": name}}
        case _ if choice in _CHOICES:
            return choice
        case _:
            raise ModelRefused("tool_choice must be none, auto, required or a function", field="$.tool_choice")


def _message(message: Mapping[str, Any], field: str, remote_images: bool) -> dict[str, Any]:
    kept = _only(message, *_MESSAGE) | _cached(message) | _signed(message)
    match kept.get("content"):
        case None | str():
            pass
        case list():
            parts = cast("list[Any]", kept["content"])
            kept["content"] = [
                _part(part, f"{field}.content[{number}]", remote_images) for number, part in enumerate(parts)
            ]
        case _:
            raise ModelRefused("a message's content must be a text or a list of parts", field=f"{field}.content")
    for name in ("name", "tool_call_id", "refusal", "reasoning_content"):
        if not isinstance(kept.get(name) or "", str):
            raise ModelRefused(f"the field {name} of a message must be a text", field=f"{field}.{name}")
    if calls := message.get("tool_calls"):
        kept["tool_calls"] = [_call(call, f"{field}.tool_calls[{n}]") for n, call in enumerate(_list(calls, field))]
    if blocks := message.get("thinking_blocks"):
        kept["thinking_blocks"] = [
            _part(block, f"{field}.thinking_blocks[{n}]", remote_images=False)
            for n, block in enumerate(_list(blocks, field))
        ]
    return kept


def _part(part: Any, field: str, remote_images: bool) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    kind = _type(part)
    if kind == "image_url":
        return _image(cast("dict[str, Any]", part), field, remote_images)
    if kind not in _PARTS:
        raise ModelRefused(f"message parts of type {kind!r} are not allowed; send text or image", field=f"{field}.type")
    kept = _only(cast("dict[str, Any]", part), *_PARTS[kind])
    if not all(isinstance(value, str) for value in kept.values() if value is not None):
        raise ModelRefused(f"the fields of a message part of type {kind} must be texts", field=field)
    return {"type": kind, **kept, **_cached(cast("dict[str, Any]", part))}


def _image(part: Mapping[str, Any], field: str, remote_images: bool) -> dict[str, Any]:
    given = part.get("image_url")
    image = cast("dict[str, Any]", given) if isinstance(given, dict) else {"url": given}
    url, field = image.get("url"), f"{field}.image_url.url"
    if not isinstance(url, str):
        raise ModelRefused("the image has no url; send the image as a data URL", field=field)
    if len(url) > MOST_IMAGE_BYTES:
        raise ModelRefused(f"an image's data URL is at most {MOST_IMAGE_BYTES} bytes; send a smaller one", field=field)
    inline = bool(_IMAGE.match(url)) and "://" not in url  # LiteLLM would fetch a data URL that contains `://`
    if not inline and not (remote_images and _REMOTE.match(url)):
        text = (
            "send images as data URLs (data:image/png;base64,…): remote images would be fetched outside of the "
            "sandbox; an operator can allow that with MUSTER_MODEL_REMOTE_IMAGES"
        )
        raise ModelRefused(text, field=field)
    detail = {"detail": image["detail"]} if isinstance(image.get("detail"), str) else {}
    return {"type": "image_url", "image_url": {"url": url, **detail}, **_cached(part)}


def _call(call: Any, field: str) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    match call:
        case {"id": str(known), "function": {"name": str(name), "arguments": str(arguments)}}:
            function: dict[str, Any] = {"name": name, "arguments": arguments}
            return {"id": known, "type": "function", "function": function, **_signed(cast("dict[str, Any]", call))}
        case _:
            raise ModelRefused("a tool call needs an id, and a function with name and arguments", field=field)


def _signed(holder: Mapping[str, Any]) -> dict[str, Any]:
    fields = holder.get("provider_specific_fields")
    if not isinstance(fields, dict):
        return {}
    kept = _only(cast("dict[str, Any]", fields), *_SIGNATURES)
    signatures = {name: value for name, value in kept.items() if _texts(value)}
    return {"provider_specific_fields": signatures} if signatures else {}


def _cached(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {"cache_control": {"type": "ephemeral"}} if _type(holder.get("cache_control")) == "ephemeral" else {}


def _texts(value: Any) -> bool:  # noqa: ANN401 - any JSON
    parts = cast("list[Any]", value) if isinstance(value, list) else [value]
    return all(isinstance(part, str) for part in parts)


def _list(value: Any, field: str) -> Sequence[Any]:  # noqa: ANN401 - any JSON
    if not isinstance(value, list):
        raise ModelRefused("tool_calls and thinking_blocks must be lists", field=field)
    return cast("list[Any]", value)


def _type(value: Any) -> Any:  # noqa: ANN401 - any JSON
    named = cast("dict[str, Any]", value).get("type") if isinstance(value, dict) else None
    return named if isinstance(named, str) else None


def _only(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value[name] for name in names if name in value}
