"""Chooses the answer of a scripted model, only from the request, so that a repeated request gets the same answer."""

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec

from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.models.domain.steering_markers import text_of

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class ScriptStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer of a scripted model: the text `say`, the tool call, and the seconds to wait before the answer."""

    say: str = ""
    tool: str | None = None
    args: dict[str, Any] = {}
    delay_s: float = 0.0


class ScriptBranch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list of a scripted model's answers, used as soon as a user message matches the pattern `when`.

    If `when` is null, the answers are used from the first message on. After the last answer, the value
    `repeat_last` of the field `then` repeats the last answer, and `repeat_all` begins again with the first answer.
    """

    steps: list[ScriptStep]
    when: str | None = None
    then: Literal["repeat_last", "repeat_all"] = "repeat_last"

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("an entry of the script's `courses` has no answer; write one into `steps`")


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The script of a scripted model. If several branches match the messages, the last matching branch is used.

    `captures` maps names to patterns. `{name}` in an answer is replaced by the text that the pattern's first group
    matches.
    """

    branches: list[ScriptBranch] = msgspec.field(name="courses")
    description: str = ""
    captures: dict[str, str] = {}


class ScriptTurn(msgspec.Struct, frozen=True):
    """The chosen answer of a scripted model, with replaced placeholders, and the number of assistant messages."""

    number: int
    step: ScriptStep


def choose(script: Script, messages: Sequence[dict[str, Any]]) -> ScriptTurn:
    """Return the script's answer to `messages`. Raises `InvalidMessage` if no branch of the script matches."""
    chosen, begins = None, 0
    for branch in script.branches:
        if (at := _begin_of(branch, messages)) is not None:
            chosen, begins = branch, at
    if chosen is None:
        raise InvalidMessage("no entry of the model script's `courses` matches the messages", field="$.messages")
    index = _assistants(messages[begins:])
    last = len(chosen.steps) - 1
    step = chosen.steps[index % (last + 1) if chosen.then == "repeat_all" else min(index, last)]
    filled = _filled(msgspec.structs.asdict(step), _captured(script, messages))
    return ScriptTurn(_assistants(messages), ScriptStep(**filled))


def _begin_of(branch: ScriptBranch, messages: Sequence[dict[str, Any]]) -> int | None:
    """Return the index of the first user message that matches a branch of a script; None if no message matches."""
    if branch.when is None:
        return 0
    pattern = re.compile(branch.when)
    for index, message in enumerate(messages):
        if message.get("role") == "user" and pattern.search(text_of(message)):
            return index
    return None


def _assistants(messages: Sequence[dict[str, Any]]) -> int:
    return sum(message.get("role") == "assistant" for message in messages)


def _captured(script: Script, messages: Sequence[dict[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, pattern in script.captures.items():
        for message in messages:
            if match := re.search(pattern, text_of(message)):
                found[name] = match[1]
                break
    return found


def _filled(value: Any, captured: dict[str, str]) -> Any:  # noqa: ANN401 - any JSON
    """Return `value` with each captured `{name}` replaced. Other braces are unchanged, because they may be code."""
    match value:
        case str():
            return _PLACEHOLDER.sub(lambda found: captured.get(found[1], found[0]), value)
        case list():
            return [_filled(item, captured) for item in cast("list[Any]", value)]
        case dict():
            return {key: _filled(item, captured) for key, item in cast("dict[str, Any]", value).items()}
        case _:
            return value
