"""The format of Anthropic's Messages API, version 2023-06-01."""

from collections.abc import Mapping
from typing import Any, cast

from tests.support.model_server.behaviours import Refused, Said
from tests.support.model_server.requests import ModelRequest
from tests.support.model_server.shapes import (
    ErrorBody,
    arguments,
    bearer,
    completion_tokens,
    pieces,
    retry_after,
    sse,
)

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "api_error",
    529: "overloaded_error",
}


class AnthropicFormat:
    """Anthropic's format. Messages are checked as Anthropic does: a `tool_use` needs a `tool_result` right after it."""

    path, stream_type = "/v1/messages", "text/event-stream"

    def authorize(self, headers: Mapping[str, str], key: str) -> None:
        # OAuth tokens come as a bearer token; API keys have their own header.
        sent = headers.get("x-api-key", "") or bearer(headers)
        if not sent:
            raise _error(401, "x-api-key header is required")
        if sent != key:
            raise _error(401, "invalid x-api-key")

    def check(self, request: ModelRequest, headers: Mapping[str, str]) -> None:
        if "anthropic-version" not in headers:
            raise _error(400, "anthropic-version: header is required")
        for name in ("max_tokens", "messages"):
            if name not in request.body:
                raise _error(400, f"{name}: Field required")
        open_calls: set[str] = set()
        for at, message in enumerate(request.messages):
            if message.get("role") not in ("user", "assistant"):
                raise _error(400, f"messages.{at}.role: Input should be 'user' or 'assistant'")
            content: Any = message.get("content")
            blocks = [] if content is None or isinstance(content, str) else cast("list[dict[str, Any]]", content)
            results = {str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"}
            if missing := open_calls - results:
                raise _error(
                    400,
                    f"messages.{at - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                    f"{', '.join(sorted(missing))}. Each `tool_use` block must have a corresponding `tool_result` "
                    "block in the next message.",
                )
            if unknown := results - open_calls:
                raise _error(
                    400,
                    f"messages.{at}: unexpected `tool_use_id` found in `tool_result` blocks: "
                    f"{', '.join(sorted(unknown))}. Each `tool_result` block must have a corresponding `tool_use` "
                    "block in the previous message.",
                )
            open_calls = {str(block.get("id")) for block in blocks if block.get("type") == "tool_use"}

    def unknown_model(self, model: str) -> ErrorBody:
        return _error(404, f"model: {model}")

    def refusal(self, refused: Refused, request: ModelRequest) -> ErrorBody:
        match refused.kind:
            case "rate_limit":
                text = "This request would exceed your organization's rate limit of 50 requests per minute."
                return _error(429, text, retry_after(refused))
            case "context":
                return _error(400, f"prompt is too long: {request.prompt_tokens} tokens > {refused.limit} maximum")
            case "server":
                return _error(refused.status, refused.message)

    def whole(self, said: Said, request: ModelRequest, number: int) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": said.text}] if said.text else []
        if said.call:
            # Anthropic sends an object also for a call that was cut; the arguments after the cut are missing.
            given = {} if said.cut else dict(said.call.args)
            content.append({"type": "tool_use", "id": f"toolu_{number}", "name": said.call.tool, "input": given})
        return {**_head(request, number), "content": content, **_end(said), "usage": _usage(said, request)}

    def events(self, said: Said, request: ModelRequest, number: int) -> list[bytes]:
        start: dict[str, Any] = {**_head(request, number), "content": [], "stop_reason": None, "stop_sequence": None}
        usage = _usage(said, request)
        start["usage"] = {**usage, "output_tokens": 1}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
        blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
        if said.text:
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces(said.text)]
            blocks.append(({"type": "text", "text": ""}, deltas))
        if said.call:
            begun: dict[str, Any] = {"type": "tool_use", "id": f"toolu_{number}", "name": said.call.tool, "input": {}}
            parts = pieces(arguments(said))
            blocks.append((begun, [{"type": "input_json_delta", "partial_json": piece} for piece in parts]))
        for index, (begun, deltas) in enumerate(blocks):
            events.append({"type": "content_block_start", "index": index, "content_block": begun})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        tokens = {"output_tokens": usage["output_tokens"]}
        events += [{"type": "message_delta", "delta": _end(said), "usage": tokens}, {"type": "message_stop"}]
        return [sse(event, str(event["type"])) for event in events]

    def listing(self, method: str, path: str, body: Any, models: list[str], context_length: int) -> Any:
        if (method, path) != ("GET", "/v1/models"):
            return None
        cards = [
            {"type": "model", "id": model, "display_name": model, "created_at": "2026-01-01T00:00:00Z"}
            for model in models
        ]
        ends = {"first_id": models[0] if models else None, "last_id": models[-1] if models else None}
        return {"data": cards, "has_more": False, **ends}


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> ErrorBody:
    error = {"type": _KINDS.get(status, "api_error"), "message": message}
    return ErrorBody(status, {"type": "error", "error": error, "request_id": "req_test"}, headers)


def _head(request: ModelRequest, number: int) -> dict[str, Any]:
    return {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": request.model}


def _end(said: Said) -> dict[str, Any]:
    reason = "tool_use" if said.call else "end_turn"
    return {"stop_reason": "max_tokens" if said.cut else reason, "stop_sequence": None}


def _usage(said: Said, request: ModelRequest) -> dict[str, Any]:
    return {
        "input_tokens": request.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": completion_tokens(said, request),
    }
