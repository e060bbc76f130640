"""Chooses the turn with which a scripted model answers: a pure function of the request, so a retry gets the same."""

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec

from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.models.domain.markers import text_of

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class ScriptStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn: the text `say`, the tool call, and the seconds to wait before the answer."""

    say: str = ""
    tool: str | None = None
    args: dict[str, Any] = {}
    delay_s: float = 0.0


class ScriptBranch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list of turns, used once a user message matches the pattern `when` (null: from the beginning).

    `then` says what follows the last turn: the last turn again, or all turns again.
    """

    steps: list[ScriptStep]
    when: str | None = None
    then: Literal["repeat_last", "repeat_all"] = "repeat_last"

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("an entry of `courses` needs at least one step")


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A script. Of the branches that match, the last one is used.

    `captures` maps names to patterns; `{name}` in a turn is replaced by the pattern's first group.
    """

    branches: list[ScriptBranch] = msgspec.field(name="courses")
    description: str = ""
    captures: dict[str, str] = {}


class ScriptTurn(msgspec.Struct, frozen=True):
    """The chosen turn with its placeholders replaced; `number` is the number of assistant messages before it."""

    number: int
    step: ScriptStep


def choose(script: Script, messages: Sequence[dict[str, Any]]) -> ScriptTurn:
    """Return the turn that answers `messages`. Raises `InvalidMessage` if no branch matches."""
    chosen, begins = None, 0
    for branch in script.branches:
        if (at := _begin_of(branch, messages)) is not None:
            chosen, begins = branch, at
    if chosen is None:
        raise InvalidMessage("no entry of the script's `courses` matches these messages", field="$.messages")
    index = _assistants(messages[begins:])
    last = len(chosen.steps) - 1
    step = chosen.steps[index % (last + 1) if chosen.then == "repeat_all" else min(index, last)]
    filled = _filled(msgspec.structs.asdict(step), _captured(script, messages))
    return ScriptTurn(_assistants(messages), ScriptStep(**filled))


def _begin_of(branch: ScriptBranch, messages: Sequence[dict[str, Any]]) -> int | None:
    """Return the index of the message at which a branch begins; None if no message matches."""
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
    """Return `value` with each captured `{name}` replaced. Other braces stay, because they may be code."""
    match value:
        case str():
            return _PLACEHOLDER.sub(lambda found: captured.get(found[1], found[0]), value)
        case list():
            return [_filled(item, captured) for item in cast("list[Any]", value)]
        case dict():
            return {key: _filled(item, captured) for key, item in cast("dict[str, Any]", value).items()}
        case _:
            return value
