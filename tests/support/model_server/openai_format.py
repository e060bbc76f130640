"""The formats of OpenAI's chat completions and of vLLM, which has the same answers and other errors."""

from collections.abc import Mapping
from typing import Any

from tests.support.model_server.behaviours import Refused, Said
from tests.support.model_server.requests import ModelRequest, fields
from tests.support.model_server.shapes import (
    CREATED,
    ErrorBody,
    arguments,
    bearer,
    completion_tokens,
    pieces,
    retry_after,
    sse,
)


class OpenAIFormat:
    """OpenAI's format. Messages are checked as OpenAI does: each tool call needs its result."""

    path, stream_type = "/v1/chat/completions", "text/event-stream"

    def authorize(self, headers: Mapping[str, str], key: str) -> None:
        sent = bearer(headers)
        if not sent:
            raise self._error(
                401,
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            )
        if sent != key:
            shown = sent[:4] + "*" * max(0, len(sent) - 8) + sent[-4:] if len(sent) > 8 else "*" * len(sent)
            raise self._error(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")

    def check(self, request: ModelRequest, headers: Mapping[str, str]) -> None:
        if not request.messages:
            raise self._error(400, "Missing required parameter: 'messages'.", param="messages")
        open_calls: list[str] = []
        for message in request.messages:
            if message.get("role") == "tool":
                if message.get("tool_call_id") not in open_calls:
                    raise self._error(
                        400,
                        "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
                        "with 'tool_calls'.",
                        param="messages.[0].role",
                    )
                open_calls.remove(str(message["tool_call_id"]))
            elif open_calls:
                break
            calls: list[dict[str, Any]] = message.get("tool_calls") or []
            open_calls += [str(call["id"]) for call in calls]
        if open_calls:
            raise self._error(
                400,
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(open_calls)}",
                param="messages",
            )

    def unknown_model(self, model: str) -> ErrorBody:
        text = f"The model `{model}` does not exist or you do not have access to it."
        return self._error(404, text, code="model_not_found")

    def refusal(self, refused: Refused, request: ModelRequest) -> ErrorBody:
        match refused.kind:
            case "rate_limit":
                text = (
                    f"Rate limit reached for {request.model} in organization org-test on requests per min (RPM): "
                    "Limit 3, Used 3, Requested 1."
                )
                headers = retry_after(refused)
                return self._error(429, text, type_="requests", code="rate_limit_exceeded", headers=headers)
            case "context":
                text = (
                    f"This model's maximum context length is {refused.limit} tokens. However, your messages resulted "
                    f"in {request.prompt_tokens} tokens. Please reduce the length of the messages."
                )
                return self._error(400, text, param="messages", code="context_length_exceeded")
            case "server":
                return self._error(refused.status, refused.message, type_="server_error")

    def _error(
        self,
        status: int,
        message: str,
        *,
        type_: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ErrorBody:
        error = {"message": message, "type": type_, "param": param, "code": code}
        return ErrorBody(status, {"error": error}, headers)

    def whole(self, said: Said, request: ModelRequest, number: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": None}
        if said.call:
            message["tool_calls"] = [_call(said, number)]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(said)}
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": CREATED,
            "model": request.model,
            "choices": [choice],
            "usage": _usage(said, request),
            "system_fingerprint": None,
        }

    def events(self, said: Said, request: ModelRequest, number: int) -> list[bytes]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in pieces(said.text)]
        if said.call:
            begun = _call(said, number)
            begun["function"]["arguments"] = ""
            deltas.append({"tool_calls": [{"index": 0, **begun}]})
            deltas += [
                {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces(arguments(said))
            ]
        head = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": request.model,
        }
        ends = [(delta, None) for delta in deltas] + [({}, _finish_reason(said))]
        parts = [
            sse({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})
            for delta, reason in ends
        ]
        if fields(request.body.get("stream_options")).get("include_usage"):
            parts.append(sse({**head, "choices": [], "usage": _usage(said, request)}))
        return [*parts, b"data: [DONE]\n\n"]

    def listing(self, method: str, path: str, body: Any, models: list[str], context_length: int) -> Any:
        if (method, path) != ("GET", "/v1/models"):
            return None
        return {"object": "list", "data": [self._card(model, context_length) for model in models]}

    def _card(self, model: str, context_length: int) -> dict[str, Any]:
        return {"id": model, "object": "model", "created": CREATED, "owned_by": "organization-owner"}


class VllmFormat(OpenAIFormat):
    """vLLM's format: flat errors with the class as type and the status as code, and `max_model_len` of each model."""

    def authorize(self, headers: Mapping[str, str], key: str) -> None:
        if bearer(headers) != key:
            raise ErrorBody(401, {"error": "Unauthorized"})

    def unknown_model(self, model: str) -> ErrorBody:
        return self._error(404, f"The model `{model}` does not exist.")

    def refusal(self, refused: Refused, request: ModelRequest) -> ErrorBody:
        match refused.kind:
            case "rate_limit":
                return self._error(429, "Too many requests.", headers=retry_after(refused))
            case "context":
                asked = request.max_tokens or 0
                return self._error(
                    400,
                    f"This model's maximum context length is {refused.limit} tokens. However, you requested "
                    f"{request.prompt_tokens + asked} tokens ({request.prompt_tokens} in the messages, {asked} in the "
                    "completion). Please reduce the length of the messages or completion.",
                )
            case "server":
                return self._error(refused.status, refused.message)

    def _error(
        self,
        status: int,
        message: str,
        *,
        type_: str = "",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ErrorBody:
        classes = {400: "BadRequestError", 404: "NotFoundError", 429: "RateLimitError"}
        kind = classes.get(status, "InternalServerError")
        body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
        return ErrorBody(status, body, headers)

    def _card(self, model: str, context_length: int) -> dict[str, Any]:
        own = {"owned_by": "vllm", "root": model, "parent": None, "max_model_len": context_length}
        return {**super()._card(model, context_length), **own, "permission": []}


def _call(said: Said, number: int) -> dict[str, Any]:
    assert said.call
    function = {"name": said.call.tool, "arguments": arguments(said)}
    return {"id": f"call_{number}", "type": "function", "function": function}


def _finish_reason(said: Said) -> str:
    if said.cut:
        return "length"
    return "tool_calls" if said.call else "stop"


def _usage(said: Said, request: ModelRequest) -> dict[str, int]:
    completed = completion_tokens(said, request)
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": completed,
        "total_tokens": request.prompt_tokens + completed,
    }
