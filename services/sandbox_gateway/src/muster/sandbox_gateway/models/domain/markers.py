"""Finding steering messages in a model request: the first line the worker wrote above each."""

import re
from collections.abc import Sequence
from typing import Any, cast

_MARKER = re.compile(r"^\[muster:([A-Za-z0-9_-]{1,64})\]", re.MULTILINE)


def text_of(message: dict[str, Any]) -> str:
    """The text of one message in OpenAI's shape, whatever else it carries."""
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
    """The ids of the steering messages that the user's side of the conversation holds, in order, each once."""
    found: dict[str, None] = {}
    for message in messages:
        if message.get("role") == "user":
            found.update(dict.fromkeys(_MARKER.findall(text_of(message))))
    return list(found)
