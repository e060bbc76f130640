"""What an agent's event says to the fold. Bodies are read raw and leniently: they are another project's format."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, cast

import msgspec

from muster.common.contracts.sandbox_log import LoggedEvent
from muster.guardian.trajectories.domain.normalising import steady, without_numbers

STEERING = "muster:"
"""`sender` of a steering message is this and its id (contracts.md, Steering)."""
LONGEST_LABEL = 120
DEEPEST = 64
"""A body nested deeper is known by its two ends, like a clipped one: agents write what they like."""
ENDS = 4_096

_NOT_THE_ACT = frozenset({"thought", "security_risk", "summary", "reasoning_content", "id"})
_NOT_THE_RESULT = frozenset({"command", "metadata", "kind", "type", "timeout", "cache_control", "id", "path"})
_NO_RAW = msgspec.Raw(b"null")


class Spoke(msgspec.Struct, frozen=True):
    """A message in the conversation. `steering` is the id of the steering message it is, if it is one."""

    seq: int
    by_agent: bool
    steering: str | None


class Acted(msgspec.Struct, frozen=True):
    """The agent chose an action. `exact` keeps plain numbers, `loose` does not."""

    seq: int
    refs: tuple[str, ...]
    exact: str
    loose: str
    label: str


class Observed(msgspec.Struct, frozen=True):
    """What an action led to. `blank` when there was nothing to read."""

    seq: int
    refs: tuple[str, ...]
    digest: str
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
"""The last is msgspec's word for nested too deep."""
_bodies = msgspec.json.Decoder(_Body)


def read(event: LoggedEvent) -> Happening | None:
    """What happened, or nothing the fold cares about."""
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
    except _UNREADABLE:  # not the shape we know: its two ends still tell repeats apart
        head, tail = _ends(event.body)
        return _Body(clipped=True, head=head, tail=tail)


def _spoke(event: LoggedEvent, body: _Body) -> Spoke:
    sender = body.sender or ""
    steering = sender.removeprefix(STEERING) if sender.startswith(STEERING) else None
    return Spoke(event.seq, by_agent=event.source == "agent", steering=steering)


def _acted(event: LoggedEvent, body: _Body) -> Acted:
    if body.clipped:
        act: Any = body.head + body.tail
    else:
        # An action that fitted no tool is null; what the model asked for is then in `tool_call`.
        act = _said(body.action) or _said(body.tool_call)
    tool = body.tool_name or "?"
    parts = [steady(part) for part in _leaves(act, _NOT_THE_ACT)]
    refs = (event.event_id, *([body.tool_call_id] if body.tool_call_id else []))
    return Acted(
        event.seq,
        refs,
        exact=_digest(tool, *parts),
        loose=_digest(tool, *map(without_numbers, parts)),
        label=_label(tool, act),
    )


def _observed(event: LoggedEvent, body: _Body) -> Observed:
    if body.clipped:
        result: Any = body.head + body.tail
    else:
        said = (_said(raw) for raw in (body.observation, body.error, body.rejection_reason))
        result = [part for part in said if part is not None]
    parts = [without_numbers(steady(part)) for part in _leaves(result, _NOT_THE_RESULT)]
    refs = tuple(ref for ref in (body.action_id, body.tool_call_id) if ref)
    blank = not any(text.strip() for text in _strings(result))
    return Observed(event.seq, refs, _digest(event.kind, *_exits(result), *parts), blank)


def _said(raw: msgspec.Raw) -> object:
    """What is written there, never deeper than `DEEPEST`, so that what reads it may recurse; else its two ends."""
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
                if key not in _NOT_THE_RESULT:
                    yield from _strings(inner)
        case list():
            for inner in cast("list[object]", value):
                yield from _strings(inner)
        case str():
            yield value
        case _:
            pass


def _exits(result: object) -> Iterator[str]:
    """An exit code is a number that means something."""
    for part in cast("list[object]", result) if isinstance(result, list) else []:
        if isinstance(part, dict):
            yield f"exit {cast('dict[str, object]', part).get('exit_code')}"


def _label(tool: str, act: object) -> str:
    said: object = act
    if isinstance(act, dict):
        fields = cast("dict[str, object]", act)
        said = " ".join(str(fields[key]) for key in ("command", "path") if fields.get(key))
    text = " ".join(str(said).split()) if said else ""
    return f"{tool}: {text[:LONGEST_LABEL]}" if text else tool


def _digest(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(errors="replace"), digest_size=16).hexdigest()
