"""Recognizes the first ASGI message of a response."""

from starlette.types import Message


def begins(message: Message) -> bool:
    """Return whether this ASGI message begins an HTTP response, which may also be the refusal of a WebSocket."""
    return message["type"] in ("http.response.start", "websocket.http.response.start")
