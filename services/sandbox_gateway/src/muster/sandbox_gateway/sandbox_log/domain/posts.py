"""Checks that a worker's request body can be read by every consumer of the log, beyond the types of its fields.

Checked are the number of events, their order, times, names and sizes, and that each body is valid JSON without too
many levels or values.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate, islice

import msgspec

from muster.common.contracts.doors import PostEvents
from muster.common.contracts.sandbox_log import MAX_BODY_BYTES, MAX_FRAME_EVENTS, LoggedEvent
from muster.common.faults import InvalidMessage, TooLarge

MOST_SEQ = 1 << 53
"""Seqs are smaller than this: readers that parse JSON numbers as doubles cannot tell larger integers apart."""
FIRST_TIME, END_OF_TIME = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""Accepted times are between these: every reader can convert such a time to its own zone without an overflow."""
_NUL = "a NUL character cannot be stored; leave it out"
_NAMES = ("kind", "event_id", "source", "parent_id")
_LONGEST_NAME = 256
DEEPEST = 200
"""Most levels of an event's body: recursive JSON readers fail at about a thousand levels, some earlier."""
_AROUND = 3
"""Levels of a request around an event's body: the object, the list `events`, the event."""
_MOST_TOKENS = 200_000
MOST_STRINGS = MOST_VALUES = 100_000
"""Most strings, and most values, in a body that is decoded as a whole."""
MOST_EVENTS = 10 * MAX_FRAME_EVENTS
"""Most events in one request."""
BREATH_BYTES = 256 << 10
"""Bytes of bodies that are checked before other requests get a turn on the event loop."""
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_strings, _tokens = re.compile(_STRING, re.DOTALL), re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

_posts = msgspec.json.Decoder(PostEvents)


def decoded[T](body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode `body` to the decoder's type; event bodies stay raw. Raises `InvalidMessage` naming the field."""
    try:
        str(body, "utf-8")  # msgspec does not check the UTF-8 of fields that it skips
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidMessage.at(error, decoder.type) from None
    except RecursionError:
        raise _too_deep(_deep_event(body)) from None


def events_post(body: bytes) -> PostEvents:
    """Decode and check a request to the endpoint `events`, without the bodies of its events.

    Raises `InvalidMessage` or `TooLarge`.
    """
    post = decoded(body, _posts)
    if post.gap is not None:
        _check_gap(post)
    if post.events:
        _check_events(post.events, may_be_large=len(body) > MAX_BODY_BYTES)
    return post


def checked_bodies(events: Sequence[LoggedEvent]) -> Iterator[None]:
    """Check that every reader can decode the body of each event. Raises `InvalidMessage` naming the event.

    Yields after about every `BREATH_BYTES`, so that the caller can give other requests a turn. Bodies are decoded one
    at a time, because a decoded value takes up to thirty times the memory of its JSON.
    """
    done = 0
    for index, event in enumerate(events):
        body = bytes(event.body)
        try:
            msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            why = InvalidMessage.at(error)
            raise InvalidMessage(str(why), field=f"$.events[{index}].body{(why.field or '$')[1:]}") from None
        except RecursionError:
            raise _too_deep(index) from None
        if _brackets(body) > DEEPEST and _depth(body) > DEEPEST:
            raise _too_deep(index)
        done += len(body)
        if done >= BREATH_BYTES:
            done = 0
            yield


def check_size(body: bytes) -> None:
    """Raise `TooLarge` for a body with too many strings or values, without decoding it.

    Quotes are counted first, because the regular expression that follows takes time for each string.
    """
    if body.count(b'"') - body.count(b'\\"') > 2 * MOST_STRINGS:
        raise TooLarge(f"the body holds over {MOST_STRINGS} strings; send less in one request", field="$")
    if body.count(b",") + _brackets(body) <= MOST_VALUES:
        return
    bare = _strings.sub(b"", body)
    if bare.count(b",") + _brackets(bare) > MOST_VALUES:
        raise TooLarge(f"the body holds over {MOST_VALUES} values; send less in one request", field="$")


def check_time(moment: datetime, field: str) -> None:
    """Raise `InvalidMessage` for a time without a zone, or outside `FIRST_TIME` to `END_OF_TIME`."""
    if moment.tzinfo is None:
        raise InvalidMessage("the time has no zone; write UTC with a Z", field=field)
    if not FIRST_TIME <= moment < END_OF_TIME:
        raise InvalidMessage("the time must be between 1970 and the end of 9998, in UTC", field=field)


def _check_events(events: list[LoggedEvent], *, may_be_large: bool) -> None:
    if len(events) > MOST_EVENTS:
        raise TooLarge(f"a request holds at most {MOST_EVENTS} events; send fewer", field="$.events")
    first = events[0].seq
    if not 1 <= first < MOST_SEQ:
        raise InvalidMessage("seq must be 1 or more", field="$.events[0].seq")
    for index, event in enumerate(events):
        if event.seq != first + index:
            text = f"seqs in a request must be consecutive: {first + index} is expected, not {event.seq}"
            raise InvalidMessage(text, field=f"$.events[{index}].seq")
        if event.at.tzinfo is None or not FIRST_TIME <= event.at < END_OF_TIME:
            check_time(event.at, f"$.events[{index}].at")
        if "\0" in event.kind + event.event_id + event.source + (event.parent_id or ""):
            raise InvalidMessage(_NUL, field=f"$.events[{index}].{_with_nul(event)}")
        if len(event.event_id) + len(event.kind) + len(event.source) + len(event.parent_id or "") > _LONGEST_NAME:
            text = f"event_id, kind, source and parent_id together are at most {_LONGEST_NAME} characters"
            raise InvalidMessage(text, field=f"$.events[{index}]")
        if may_be_large and len(bytes(event.body)) > MAX_BODY_BYTES:
            text = f"an event's body is at most {MAX_BODY_BYTES} bytes; send its head, tail, size and sha256"
            raise TooLarge(text, field=f"$.events[{index}].body")


def _with_nul(event: LoggedEvent) -> str:
    return next(name for name in _NAMES if "\0" in (getattr(event, name) or ""))


def _brackets(json: bytes) -> int:
    return json.count(b"[") + json.count(b"{")


def _depth(json: bytes) -> int:
    steps = map(_STEP.__getitem__, _strings.sub(b"", json).translate(None, _NO_BRACKETS))
    return max(accumulate(steps), default=0)


def _deep_event(body: bytes) -> int | None:
    """Return the index of the event that is nested too deeply; None if it is not an event.

    Decoders do not report where a body became too deep, so this scans the tokens of the request.
    """
    depth, index, key = 0, -1, b""
    for found in islice(_tokens.finditer(body), _MOST_TOKENS):
        match found[0]:
            case b"[" | b"{":
                depth += 1
                index += depth == _AROUND and key == b'"events"'
                if depth > DEEPEST + _AROUND:
                    return index if index >= 0 and key == b'"events"' else None
            case b"]" | b"}":
                depth -= 1
            case string if depth == 1:
                key = string
            case _:
                continue
    return None


def _too_deep(index: int | None) -> InvalidMessage:
    if index is None:
        return InvalidMessage("nested too deeply", field="$")
    text = f"nested too deeply: an event's body has at most {DEEPEST} levels"
    return InvalidMessage(text, field=f"$.events[{index}].body")


def _check_gap(post: PostEvents) -> None:
    stated = post.gap
    assert stated is not None
    if post.events:
        raise InvalidMessage("a request holds events or a gap, not both", field="$.gap")
    if not 1 <= stated.from_seq <= stated.to_seq < MOST_SEQ:
        raise InvalidMessage("from_seq must be 1 or more, and to_seq must not be less", field="$.gap.from_seq")
    if "\0" in stated.why:
        raise InvalidMessage(_NUL, field="$.gap.why")
