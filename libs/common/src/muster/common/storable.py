"""Which values PostgreSQL can store: checks that refuse the others, and a cleaning for text that agents wrote."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any, cast

from muster.common.contract import encode
from muster.common.contracts.limits import MOST_DEPTH
from muster.common.faults import InvalidMessage

MOST_VALUES = 20_000
"""Of one request, keys and members counted: what a request may cost to check, whatever it is made of."""
_MOST_PATH_CHARS = 200
_WRITTEN_OUT = 16
"""Beyond so many zeros a number is sent with an exponent."""


def without_nul[V](value: V) -> V:
    """Return the value with every NUL replaced by U+FFFD: PostgreSQL cannot store that character."""
    cleaned: Any = value
    match value:
        case str():
            cleaned = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        case dict():
            members = cast("dict[str, Any]", value)
            cleaned = {without_nul(name): without_nul(inner) for name, inner in members.items()}
        case list():
            cleaned = [without_nul(inner) for inner in cast("list[Any]", value)]
        case _:
            pass
    return cleaned


def stored_bytes(value: Any) -> int:  # noqa: ANN401 - any JSON
    """Bytes of JSON as `jsonb` gives it back: it writes numbers without an exponent, 1e300 with all of its zeros."""
    size = len(encode(value))
    ahead: list[Any] = [value]
    while ahead:
        one = ahead.pop()
        match one:
            case float() if one and math.isfinite(one):
                zeros = abs(math.floor(math.log10(abs(one))))
                size += zeros if zeros > _WRITTEN_OUT else 0
            case dict():
                ahead += cast("dict[str, Any]", one).values()
            case list():
                ahead += cast("list[Any]", one)
            case _:
                continue
    return size


def in_calendar(at: datetime) -> bool:
    """Whether it is a time in UTC, too."""
    try:
        at.astimezone(UTC)
    except OverflowError:
        return False
    return True


def refuse_outside_calendar(at: datetime) -> datetime:
    """The time itself. Raises `ValueError` for one that has no date in UTC."""
    if not in_calendar(at):
        raise ValueError("in UTC this is outside the years 1 to 9999")
    return at


def refuse_unstorable(value: object, at: str = "$") -> None:
    """Raise `InvalidMessage` if JSON allows the value, but PostgreSQL or a later decoder does not.

    Refused are the character NUL, more than `MOST_DEPTH` levels, more than `MOST_VALUES` values, and a time that has
    no date in UTC. `at` is the path of `value` in the message; the error names the path of the part that is refused.
    The path is built only for a refused part, on the way back up: building it for every part would cost the length
    of all keys above, once for each part below them.
    """
    if wrong := _unstorable(value, 0, count(1)):
        text, steps = wrong
        raise InvalidMessage(text, field=(at + "".join(reversed(steps)))[:_MOST_PATH_CHARS])


def _unstorable(part: object, depth: int, counted: Iterator[int]) -> tuple[str, list[str]] | None:
    """What is wrong with `part`, and the steps that lead to it, the last one first."""
    if text := _wrong(part, depth, next(counted)):
        return text, []
    for step, inner in _members(part):
        if found := _unstorable(inner, depth + 1, counted):
            found[1].append(f"[{step}]" if isinstance(step, int) else step and f".{step[:_MOST_PATH_CHARS]}")
            return found
    return None


def _wrong(part: object, depth: int, number: int) -> str | None:
    if depth > MOST_DEPTH:
        return f"nested deeper than {MOST_DEPTH} levels"
    if number > MOST_VALUES:
        return f"a request may hold {MOST_VALUES} values; send fewer"
    if isinstance(part, str) and "\0" in part:
        return "a NUL character cannot be stored"
    if isinstance(part, datetime) and not in_calendar(part):
        return "in UTC this is outside the years 1 to 9999"
    return None


def _members(part: object) -> Iterator[tuple[str | int, object]]:
    """Each member with the step that leads to it. A key is named by the object that it is in."""
    if isinstance(part, dict):
        for key, inner in cast("dict[str, object]", part).items():
            yield "", key
            yield key, inner
    elif isinstance(part, list):
        yield from enumerate(cast("list[object]", part))
