"""Reads messages, actions and results of actions from the events of agents.

The bodies of events are in the format of another project (OpenHands), which may change. So the reader is lenient:
unknown fields are ignored, and a body that cannot be decoded is compared by its first and last characters.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, cast

import msgspec

from muster.common.contracts.sandbox_log import LoggedEvent
from muster.guardian.trajectories.domain.normalising import steady, without_numbers
from muster.guardian.trajectories.domain.waiting import Waiting, waiting

STEERING = "muster:"
"""The prefix of the field `sender` in a steering message; the message's id follows (contracts.md, Steering)."""
LONGEST_LABEL = 120
DEEPEST = 64
"""The deepest nesting of a value that is read, because readers recurse. Deeper values are compared by their ends."""
ENDS = 4_096

_IGNORED_IN_ACTIONS = frozenset({"thought", "security_risk", "summary", "reasoning_content", "id"})
_IGNORED_IN_RESULTS = frozenset({"command", "metadata", "kind", "type", "timeout", "cache_control", "id", "path"})
_NO_RAW = msgspec.Raw(b"null")


class Spoke(msgspec.Struct, frozen=True):
    """A message in the agent's conversation. `steering` is the message's id if it is a steering message, else None."""

    seq: int
    by_agent: bool
    steering: str | None


class Acted(msgspec.Struct, frozen=True):
    """An action that the agent chose.

    The result of the action refers to one of the ids in `refs`. `exact` is a digest of tool and arguments, `loose` is
    the same digest without numbers. `label` describes the action for people. `waits` is about a command in a terminal.
    """

    seq: int
    refs: tuple[str, ...]
    exact: str
    loose: str
    label: str
    waits: Waiting = Waiting.NONE


class Observed(msgspec.Struct, frozen=True):
    """The result of an action. `blank` means that it has no text.

    `digest` is made from its text without numbers, and `exact` from its text with numbers. Both leave out times.
    """

    seq: int
    refs: tuple[str, ...]
    digest: str
    exact: str
    blank: bool


Happening = Spoke | Acted | Observed


class _Body(msgspec.Struct):
    sender: str | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    action_id: str | None = None
    action: msgspec.Raw = _NO_RAW
    tool_call: msgspec.Raw = _NO_RAW
    observation: msgspec.Raw = _NO_RAW
    error: msgspec.Raw = _NO_RAW
    rejection_reason: msgspec.Raw = _NO_RAW
    clipped: bool = False
    head: str = ""
    tail: str = ""


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors for a body that cannot be decoded. msgspec raises `RecursionError` for a body that is nested too deeply."""
_bodies = msgspec.json.Decoder(_Body)


def read(event: LoggedEvent) -> Happening | None:
    """Return the message, action or result in an event of an agent; None for an event of another kind."""
    match event.kind:
        case "MessageEvent":
            return _spoke(event, _body(event))
        case "ActionEvent":
            return _acted(event, _body(event))
        case "ObservationEvent" | "AgentErrorEvent" | "UserRejectObservation":
            return _observed(event, _body(event))
        case _:
            return None


def _body(event: LoggedEvent) -> _Body:
    try:
        return _bodies.decode(event.body)
    except _UNREADABLE:  # A body of unknown format is compared by its first and last characters.
        head, tail = _ends(event.body)
        return _Body(clipped=True, head=head, tail=tail)


def _spoke(event: LoggedEvent, body: _Body) -> Spoke:
    sender = body.sender or ""
    steering = sender.removeprefix(STEERING) if sender.startswith(STEERING) else None
    return Spoke(event.seq, by_agent=event.source == "agent", steering=steering)


def _acted(event: LoggedEvent, body: _Body) -> Acted:
    if body.clipped:
        action: Any = body.head + body.tail
    else:
        # If an action matched no tool, `action` is null, and `tool_call` contains the model's call.
        action = _decoded(body.action) or _decoded(body.tool_call)
    tool = body.tool_name or "?"
    parts = [steady(part) for part in _leaves(action, _IGNORED_IN_ACTIONS)]
    refs = (event.event_id, *([body.tool_call_id] if body.tool_call_id else []))
    return Acted(
        event.seq,
        refs,
        exact=_digest(tool, *parts),
        loose=_digest(tool, *map(without_numbers, parts)),
        label=_label(tool, action),
        waits=_waits(action),
    )


def _observed(event: LoggedEvent, body: _Body) -> Observed:
    if body.clipped:
        result: Any = body.head + body.tail
    else:
        decoded = (_decoded(raw) for raw in (body.observation, body.error, body.rejection_reason))
        result = [part for part in decoded if part is not None]
    parts = [steady(part) for part in _leaves(result, _IGNORED_IN_RESULTS)]
    refs = tuple(ref for ref in (body.action_id, body.tool_call_id) if ref)
    blank = not any(text.strip() for text in _strings(result))
    head = (event.kind, *_exits(result))
    return Observed(
        event.seq, refs, digest=_digest(*head, *map(without_numbers, parts)), exact=_digest(*head, *parts), blank=blank
    )


def _decoded(raw: msgspec.Raw) -> object:
    """Decode a JSON value; if it is invalid or nested too deeply, return its first and last characters as text."""
    try:
        value = msgspec.json.decode(raw)
    except _UNREADABLE:
        return "".join(_ends(raw))
    return "".join(_ends(raw)) if _too_deep(value) else value


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    match value:
        case dict():
            return cast("dict[str, object]", value).values()
        case list():
            return cast("list[object]", value)
        case _:
            return ()


def _ends(raw: msgspec.Raw) -> tuple[str, str]:
    text = bytes(raw).decode(errors="replace")
    return text[:ENDS], text[-ENDS:]


def _leaves(value: object, ignored: frozenset[str]) -> Iterator[str]:
    match value:
        case dict():
            for key, inner in sorted(cast("dict[str, object]", value).items()):
                if key not in ignored:
                    yield from _leaves(inner, ignored)
        case list():
            for inner in cast("list[object]", value):
                yield from _leaves(inner, ignored)
        case str():
            yield value
        case None:
            pass
        case _:
            yield str(value)


def _strings(value: object) -> Iterator[str]:
    match value:
        case dict():
            for key, inner in cast("dict[str, object]", value).items():
                if key not in _IGNORED_IN_RESULTS:
                    yield from _strings(inner)
        case list():
            for inner in cast("list[object]", value):
                yield from _strings(inner)
        case str():
            yield value
        case _:
            pass


def _exits(result: object) -> Iterator[str]:
    """Yield the exit codes in the result of an action. Exit codes are compared, while other numbers are ignored."""
    for part in cast("list[object]", result) if isinstance(result, list) else []:
        if isinstance(part, dict):
            yield f"exit {cast('dict[str, object]', part).get('exit_code')}"


def _label(tool: str, action: object) -> str:
    shown: object = action
    if isinstance(action, dict):
        fields = cast("dict[str, object]", action)
        shown = " ".join(str(fields[key]) for key in ("command", "path") if fields.get(key))
    text = " ".join(str(shown).split()) if shown else ""
    return f"{tool}: {text[:LONGEST_LABEL]}" if text else tool


def _waits(action: object) -> Waiting:
    # The file editor's actions have a field `command` too, which is the name of an edit, and always a path.
    fields = cast("dict[str, object]", action) if isinstance(action, dict) else {}
    command = fields.get("command")
    return waiting(command) if isinstance(command, str) and "path" not in fields else Waiting.NONE


def _digest(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(errors="replace"), digest_size=16).hexdigest()
