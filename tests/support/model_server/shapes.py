"""The interface of a provider's format, and the parts that the formats share."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from tests.support.model_server.behaviours import Refused, Said
from tests.support.model_server.requests import ModelRequest

CREATED = 1_767_225_600
"""The time of creation in every answer, in seconds since 1970: the start of 2026."""
JSON = "application/json"


class ErrorBody(Exception):
    """A refusal in the format of a provider."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status, self.body, self.headers = status, body, dict(headers or {})


class ProviderFormat(Protocol):
    """Encodes answers and errors as one provider does."""

    path: str
    """Path of the completions."""
    stream_type: str

    def authorize(self, headers: Mapping[str, str], key: str) -> None:
        """Raise `ErrorBody` if the headers do not carry the key."""
        ...

    def check(self, request: ModelRequest, headers: Mapping[str, str]) -> None:
        """Raise `ErrorBody` if the provider would refuse this request as malformed."""
        ...

    def unknown_model(self, model: str) -> ErrorBody: ...

    def refusal(self, refused: Refused, request: ModelRequest) -> ErrorBody: ...

    def whole(self, said: Said, request: ModelRequest, number: int) -> dict[str, Any]:
        """Return the body of an answer that is no stream. `number` makes ids unique."""
        ...

    def events(self, said: Said, request: ModelRequest, number: int) -> list[bytes]:
        """Return the parts of a stream."""
        ...

    def listing(self, method: str, path: str, body: Any, models: list[str], context_length: int) -> Any:
        """Return the body for a path that describes models, or None if the provider has no such path."""
        ...


def bearer(headers: Mapping[str, str]) -> str:
    """Return the token of the header Authorization; an empty string if there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def arguments(said: Said) -> str:
    """Return the call's arguments as JSON, cut in the middle if the message ends at the token limit."""
    encoded = msgspec.json.encode(dict(said.call.args) if said.call else {}).decode()
    return encoded[: max(1, len(encoded) // 2)] if said.cut else encoded


def completion_tokens(said: Said, request: ModelRequest) -> int:
    """Return the number of output tokens: the limit for a cut message, otherwise an estimate."""
    if said.cut and request.max_tokens:
        return request.max_tokens
    return (len(said.text) + (len(arguments(said)) if said.call else 0)) // 4 + 1


def pieces(text: str, size: int = 24) -> list[str]:
    """Return the text in parts, as a stream sends it."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def retry_after(refused: Refused) -> dict[str, str]:
    """Return the header Retry-After in whole seconds, if there is one."""
    return {} if refused.retry_after_s is None else {"retry-after": f"{refused.retry_after_s:g}"}


def sse(event: Any, name: str = "") -> bytes:
    """Return one server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(event) + b"\n\n"
