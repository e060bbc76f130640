"""The format of Ollama's native API. Streams are lines of JSON, not server-sent events."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tests.support.model_server.behaviours import Refused, Said
from tests.support.model_server.requests import ModelRequest, fields
from tests.support.model_server.shapes import (
    ErrorBody,
    arguments,
    bearer,
    completion_tokens,
    pieces,
    retry_after,
)

_CREATED_AT = "2026-01-01T00:00:00Z"
_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "qwen3",
    "families": ["qwen3"],
    "parameter_size": "8.2B",
    "quantization_level": "Q4_K_M",
}


class OllamaFormat:
    """Ollama's format. Ollama checks no key itself; the proxy before a protected server does."""

    path, stream_type = "/api/chat", "application/x-ndjson"

    def authorize(self, headers: Mapping[str, str], key: str) -> None:
        if bearer(headers) != key:
            raise ErrorBody(401, {"error": "unauthorized"})

    def check(self, request: ModelRequest, headers: Mapping[str, str]) -> None:
        for message in request.messages:
            calls: list[dict[str, Any]] = message.get("tool_calls") or []
            for call in calls:
                if not isinstance(call["function"].get("arguments"), dict):
                    raise ErrorBody(
                        400,
                        {
                            "error": "json: cannot unmarshal string into Go struct field "
                            "ChatRequest.messages.tool_calls.function.arguments of type "
                            "api.ToolCallFunctionArguments"
                        },
                    )

    def unknown_model(self, model: str) -> ErrorBody:
        return ErrorBody(404, {"error": f"model '{model}' not found"})

    def refusal(self, refused: Refused, request: ModelRequest) -> ErrorBody:
        match refused.kind:
            case "rate_limit":
                text = "too many concurrent requests"
            case "context":
                # Ollama usually cuts the prompt silently; it answers so for `"truncate": false`.
                text = "the input length exceeds the context length"
            case "server":
                text = refused.message
        return ErrorBody(refused.status, {"error": text}, retry_after(refused))

    def whole(self, said: Said, request: ModelRequest, number: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        if said.call and said.cut:
            # Ollama parses the model's text into calls; a call without its end stays text.
            message["content"] += f'<tool_call>\n{{"name": "{said.call.tool}", "arguments": {arguments(said)}'
        elif said.call:
            message["tool_calls"] = [{"function": {"name": said.call.tool, "arguments": dict(said.call.args)}}]
        return {"model": request.model, "created_at": _CREATED_AT, "message": message, **_end(said, request)}

    def events(self, said: Said, request: ModelRequest, number: int) -> list[bytes]:
        message = self.whole(said, request, number)["message"]
        deltas: list[dict[str, Any]] = [{"content": piece} for piece in pieces(message["content"])]
        if "tool_calls" in message:
            deltas.append({"content": "", "tool_calls": message["tool_calls"]})
        ends: list[tuple[dict[str, Any], dict[str, Any]]] = [(delta, {"done": False}) for delta in deltas]
        ends.append(({"content": ""}, _end(said, request)))
        return [
            msgspec.json.encode(
                {"model": request.model, "created_at": _CREATED_AT, "message": {"role": "assistant", **delta}, **end}
            )
            + b"\n"
            for delta, end in ends
        ]

    def listing(self, method: str, path: str, body: Any, models: list[str], context_length: int) -> Any:
        match method, path:
            case "GET", "/api/version":
                return {"version": "0.12.6"}
            case "GET", "/api/tags":
                return {"models": [_tag(model) for model in models]}
            case "POST", "/api/show":
                asked = fields(body)
                model = str(asked.get("model") or asked.get("name") or "")
                if model not in models:
                    raise self.unknown_model(model)
                return _shown(context_length)
            case _:
                return None


def _tag(model: str) -> dict[str, Any]:
    listed = {"name": model, "model": model, "modified_at": _CREATED_AT, "size": 5_225_388_164, "digest": "0" * 64}
    return {**listed, "details": _DETAILS}


def _shown(context_length: int) -> dict[str, Any]:
    known = {"general.architecture": "qwen3", "general.parameter_count": 8_190_735_360}
    return {
        "license": "Apache License",
        "modelfile": "# Modelfile",
        "parameters": "temperature 0.6",
        "template": "{{ .Prompt }}",
        "details": _DETAILS,
        "model_info": {**known, "qwen3.context_length": context_length},
        "capabilities": ["completion", "tools"],
        "modified_at": _CREATED_AT,
    }


def _end(said: Said, request: ModelRequest) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": "length" if said.cut else "stop",
        "total_duration": 1_000_000_000,
        "load_duration": 10_000_000,
        "prompt_eval_count": request.prompt_tokens,
        "prompt_eval_duration": 100_000_000,
        "eval_count": completion_tokens(said, request),
        "eval_duration": 800_000_000,
    }
