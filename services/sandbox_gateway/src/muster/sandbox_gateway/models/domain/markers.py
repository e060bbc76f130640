"""Finds the markers of steering messages in a model request.

The worker writes `[muster:<message id>]` above each steering message that it puts into the conversation.
"""

import re
from collections.abc import Sequence
from typing import Any, cast

_MARKER = re.compile(r"^\[muster:([A-Za-z0-9_-]{1,64})\]", re.MULTILINE)


def text_of(message: dict[str, Any]) -> str:
    """Return the text of a message in OpenAI's shape, without its images and other parts."""
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
    """Return the ids in the markers of all user messages, in order and without repetitions."""
    found: dict[str, None] = {}
    for message in messages:
        if message.get("role") == "user":
            found.update(dict.fromkeys(_MARKER.findall(text_of(message))))
    return list(found)
