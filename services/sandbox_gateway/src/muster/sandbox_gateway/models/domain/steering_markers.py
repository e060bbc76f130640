"""Finds the markers of steering messages in a model request.

A steering message is sent to a running agent by a person or by the guardian. The worker writes the marker
`[muster:<message id>]` above each steering message that it adds to the conversation.
"""

import re
from collections.abc import Sequence
from typing import Any, cast

_MARKER = re.compile(r"^\[muster:([A-Za-z0-9_-]{1,64})\]", re.MULTILINE)


def text_of(message: dict[str, Any]) -> str:
    """Return the text of a message in OpenAI's format, without the message's images and other parts."""
    match message.get("content"):
        case str(text):
            return text
        case list():
            return "\n".join(map(_part, cast("list[Any]", message["content"])))
        case _:
            return ""


def _part(part: Any) -> str:  # noqa: ANN401 - any JSON
    match part:
        case {"text": str(text)}:
            return text
        case _:
            return ""


def markers(messages: Sequence[dict[str, Any]]) -> list[str]:
    """Return the ids of the steering messages whose markers are in user messages, in order and without duplicates."""
    found: dict[str, None] = {}
    for message in messages:
        if message.get("role") == "user":
            found.update(dict.fromkeys(_MARKER.findall(text_of(message))))
    return list(found)
