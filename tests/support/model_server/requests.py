"""Model requests as this server reads them: the same fields, whichever provider's format the request has."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import msgspec

Shape = Literal["openai", "vllm", "anthropic", "ollama"]
SHAPES: tuple[Shape, ...] = ("openai", "vllm", "anthropic", "ollama")
CHARACTERS_PER_TOKEN = 4
"""The usual estimate for English text. The server has no tokenizer, and its limits need no exact counts."""


@dataclass(frozen=True)
class ModelRequest:
    """One request for a completion. `body` is the decoded JSON object that the client sent."""

    shape: Shape
    body: Mapping[str, Any]

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def stream(self) -> bool:
        """Whether the client wants a stream. Ollama streams unless the request says `false`."""
        return bool(self.body.get("stream", self.shape == "ollama"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body.get("messages") or [])

    @property
    def answered(self) -> int:
        """Number of the assistant's messages in the request, which says how far the conversation is."""
        return sum(message.get("role") == "assistant" for message in self.messages)

    @property
    def max_tokens(self) -> int | None:
        """The limit of output tokens, from the field that this provider uses; None without a limit."""
        if self.shape == "ollama":
            limit = fields(self.body.get("options")).get("num_predict")
            return limit if isinstance(limit, int) and limit >= 0 else None
        limit = self.body.get("max_completion_tokens", self.body.get("max_tokens"))
        return limit if isinstance(limit, int) else None

    @property
    def tools(self) -> list[str]:
        """Names of the tools that the request offers."""
        offered: list[dict[str, Any]] = list(self.body.get("tools") or [])
        return [str(tool.get("function", tool).get("name")) for tool in offered]

    @cached_property
    def prompt(self) -> str:
        """The text of the system prompt and of all messages of the user, in their order."""
        said = [message.get("content") for message in self.messages if message.get("role") in ("system", "user")]
        return "\n".join(_text(content) for content in [self.body.get("system"), *said] if content)

    @cached_property
    def prompt_tokens(self) -> int:
        """An estimate of the tokens of messages and tools together."""
        counted = [self.body.get("system"), self.messages, self.body.get("tools")]
        return 1 + len(msgspec.json.encode(counted)) // CHARACTERS_PER_TOKEN


def fields(value: Any) -> dict[str, Any]:
    """Return the fields of a JSON object; none for any other value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks: list[dict[str, Any]] = content
    return "\n".join(str(block["text"]) for block in blocks if "text" in block)
