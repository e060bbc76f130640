"""A written model: which turn a script answers with is a pure function of the request, so a retry gets the same."""

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec

from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.models.domain.markers import text_of

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class ScriptStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn: what is said, and the tool called."""

    say: str = ""
    tool: str | None = None
    args: dict[str, Any] = {}
    delay_s: float = 0.0


class ScriptBranch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The turns played once some user message matches `when` (null: from the start)."""

    steps: list[ScriptStep]
    when: str | None = None
    then: Literal["repeat_last", "repeat_all"] = "repeat_last"

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("a course needs at least one step")


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One script: its last course that matches is the one played."""

    branches: list[ScriptBranch] = msgspec.field(name="courses")
    description: str = ""
    captures: dict[str, str] = {}


class ScriptTurn(msgspec.Struct, frozen=True):
    """The chosen step with its places filled in; `number` counts the turns of the whole conversation."""

    number: int
    step: ScriptStep


def choose(script: Script, messages: Sequence[dict[str, Any]]) -> ScriptTurn:
    """The turn that answers `messages`. Raises `InvalidMessage` when no course fits."""
    chosen, begins = None, 0
    for branch in script.branches:
        if (at := _begin(branch, messages)) is not None:
            chosen, begins = branch, at
    if chosen is None:
        raise InvalidMessage("no course of this script fits these messages", field="$.messages")
    index = _assistants(messages[begins:])
    last = len(chosen.steps) - 1
    step = chosen.steps[index % (last + 1) if chosen.then == "repeat_all" else min(index, last)]
    filled = _filled(msgspec.structs.asdict(step), _captured(script, messages))
    return ScriptTurn(_assistants(messages), ScriptStep(**filled))


def _begin(branch: ScriptBranch, messages: Sequence[dict[str, Any]]) -> int | None:
    """Where the course begins in the conversation."""
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
    """`value` with every known `{name}` replaced; other braces are the script's own code."""
    match value:
        case str():
            return _PLACEHOLDER.sub(lambda found: captured.get(found[1], found[0]), value)
        case list():
            return [_filled(item, captured) for item in cast("list[Any]", value)]
        case dict():
            return {key: _filled(item, captured) for key, item in cast("dict[str, Any]", value).items()}
        case _:
            return value
