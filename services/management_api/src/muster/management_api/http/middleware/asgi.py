"""Knows where an answer begins."""

from starlette.types import Message


def begins(message: Message) -> bool:
    """Whether an HTTP answer begins with this message; also one that refuses a WebSocket."""
    return message["type"] in ("http.response.start", "websocket.http.response.start")
