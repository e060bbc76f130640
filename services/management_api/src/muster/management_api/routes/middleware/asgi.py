"""What the middleware here share: the beginning of an answer."""

from collections.abc import Iterable

from starlette.types import Message


def begins(message: Message) -> bool:
    """Whether an HTTP answer begins with this message; also one that refuses a WebSocket."""
    return message["type"] in ("http.response.start", "websocket.http.response.start")


def with_headers(message: Message, added: Iterable[tuple[bytes, bytes]]) -> Message:
    """The message with more headers."""
    return {**message, "headers": [*message.get("headers", ()), *added]}
