"""Refuses values that PostgreSQL cannot store, and cleans text that agents have written."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any, cast

from muster.common.contract import encode
from muster.common.contracts.limits import MOST_DEPTH
from muster.common.faults import InvalidMessage

MOST_VALUES = 20_000
"""The most values in one request, including keys and members, which limits the time of the check."""
_MOST_PATH_CHARS = 200
_WRITTEN_OUT = 16
"""A number with more zeros than this is sent with an exponent."""


def without_nul[V](value: V) -> V:
    """Return the value with every NUL character replaced by U+FFFD, because PostgreSQL cannot store NUL."""
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
    """Return the size in bytes of JSON as `jsonb` returns it: without exponents, so 1e300 has all its zeros."""
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
    """Return whether the time can be expressed in UTC (years 1 to 9999)."""
    try:
        at.astimezone(UTC)
    except OverflowError:
        return False
    return True


def refuse_outside_calendar(at: datetime) -> datetime:
    """Return the time. Raises `ValueError` if the time cannot be expressed in UTC."""
    if not in_calendar(at):
        raise ValueError("the time is outside the years 1 to 9999 in UTC")
    return at


def refuse_unstorable(value: object, at: str = "$") -> None:
    """Raise `InvalidMessage` for a value that JSON allows, but PostgreSQL or a later decoder does not.

    Refused are the character NUL, more than `MOST_DEPTH` levels, more than `MOST_VALUES` values, and times that cannot
    be expressed in UTC. `at` is the path of `value` in the message. The error names the path of the refused part. The
    path is built only after a part was refused, because building the paths of all parts would be slow.
    """
    if wrong := _unstorable(value, 0, count(1)):
        text, steps = wrong
        raise InvalidMessage(text, field=(at + "".join(reversed(steps)))[:_MOST_PATH_CHARS])


def _unstorable(part: object, depth: int, counted: Iterator[int]) -> tuple[str, list[str]] | None:
    """Return the error text and the path of the first wrong part (innermost step first), or None for a valid value."""
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
        return "the time is outside the years 1 to 9999 in UTC"
    return None


def _members(part: object) -> Iterator[tuple[str | int, object]]:
    """Yield each key and value of an object, or each entry of a list, with the path step to it."""
    if isinstance(part, dict):
        for key, inner in cast("dict[str, object]", part).items():
            yield "", key
            yield key, inner
    elif isinstance(part, list):
        yield from enumerate(cast("list[object]", part))
