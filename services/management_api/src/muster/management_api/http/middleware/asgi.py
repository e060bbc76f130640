"""Recognizes the first message of a response."""

from starlette.types import Message


def begins(message: Message) -> bool:
    """Return whether an HTTP response begins with this message, also one that refuses a WebSocket."""
    return message["type"] in ("http.response.start", "websocket.http.response.start")
