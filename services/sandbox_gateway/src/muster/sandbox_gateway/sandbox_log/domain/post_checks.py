"""Checks a worker's request body, so that every consumer of the sandbox's log can read the stored events.

In addition to the types of the fields, this module checks the number of events, their order, times, names and sizes. It
also checks that the body of each event is valid JSON without too many levels or values.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate, islice

import msgspec

from muster.common.contracts.sandbox_log import MAX_BODY_BYTES, MAX_FRAME_EVENTS, LoggedEvent
from muster.common.contracts.worker_api import PostEvents
from muster.common.faults import InvalidMessage, TooLarge

MOST_SEQ = 1 << 53
"""Every seq is smaller than this number: readers that parse JSON numbers as doubles cannot distinguish larger ones."""
FIRST_TIME, END_OF_TIME = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""Accepted times are between these two: every reader can convert such a time to its own zone without an overflow."""
_NUL = "a NUL character in a text cannot be stored; remove it"
_NUL_ESCAPE = b"\\u0000"  # JSON has no other form of NUL
_NAMES = ("kind", "event_id", "source", "parent_id")
_LONGEST_NAME = 256
DEEPEST = 200
"""Most levels of an event's body: recursive JSON readers fail at about a thousand levels, some earlier."""
_AROUND = 3
"""JSON levels of a request around the body of an event: the request, the list `events`, and the event."""
_MOST_TOKENS = 200_000
MOST_STRINGS = MOST_VALUES = 100_000
"""Most strings, and most values, in a body that is decoded as a whole."""
MOST_EVENTS = 10 * MAX_FRAME_EVENTS
"""Most events in one request."""
BREATH_BYTES = 256 << 10
"""Bytes of event bodies that are checked before the event loop runs other requests."""
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_strings, _tokens = re.compile(_STRING, re.DOTALL), re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

_posts = msgspec.json.Decoder(PostEvents)
_values = msgspec.json.Decoder()


def decoded[T](body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a request body to the type of the decoder. The bodies of events are not decoded.

    Raises `InvalidMessage` with the name of the wrong field.
    """
    try:
        str(body, "utf-8")  # msgspec does not check the UTF-8 of fields that it skips
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidMessage.at(error, decoder.type) from None
    except RecursionError:
        raise _too_deep(_deep_event(body)) from None


def events_post(body: bytes) -> PostEvents:
    """Decode and check a worker's request to the endpoint `events`, but not the bodies of its events.

    Raises `InvalidMessage` or `TooLarge`.
    """
    post = decoded(body, _posts)
    if post.gap is not None:
        _check_gap(post)
    if post.events:
        # A search for one byte takes a tenth of the time of a search for six.
        may_have_nul = b"\\" in body and _NUL_ESCAPE in body
        check_events(post.events, may_be_large=len(body) > MAX_BODY_BYTES, may_have_nul=may_have_nul)
    return post


def checked_bodies(events: Sequence[LoggedEvent]) -> Iterator[None]:
    """Check that every reader can decode the body of each event. Raises `InvalidMessage` with the index of the event.

    Yields after about every `BREATH_BYTES` bytes, so that the caller can let the event loop run other requests. Bodies
    are decoded one at a time, because a decoded value takes up to thirty times the memory of its JSON.
    """
    done = 0
    for index, event in enumerate(events):
        body = bytes(event.body)
        try:
            _values.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            why = InvalidMessage.at(error)
            raise InvalidMessage(str(why), field=f"$.events[{index}].body{(why.field or '$')[1:]}") from None
        except RecursionError:
            raise _too_deep(index) from None
        if len(body) > 2 * DEEPEST and _brackets(body) > DEEPEST and _depth(body) > DEEPEST:
            raise _too_deep(index)
        done += len(body)
        if done >= BREATH_BYTES:
            done = 0
            yield


def check_size(body: bytes) -> None:
    """Raise `TooLarge` for a JSON body with too many strings or values, without decoding the body.

    Quotes are counted first, because the regular expression that is used then takes time for each string.
    """
    if body.count(b'"') - body.count(b'\\"') > 2 * MOST_STRINGS:
        raise TooLarge(f"the request's body has over {MOST_STRINGS} strings; send less in one request", field="$")
    if body.count(b",") + _brackets(body) <= MOST_VALUES:
        return
    bare = _strings.sub(b"", body)
    if bare.count(b",") + _brackets(bare) > MOST_VALUES:
        raise TooLarge(f"the request's body has over {MOST_VALUES} values; send less in one request", field="$")


def check_time(moment: datetime, field: str) -> None:
    """Raise `InvalidMessage` for a time without a zone, or outside `FIRST_TIME` to `END_OF_TIME`."""
    if moment.tzinfo is None:
        raise InvalidMessage("the time has no time zone; write a UTC time that ends with Z", field=field)
    if not FIRST_TIME <= moment < END_OF_TIME:
        raise InvalidMessage("the time must be between the years 1970 and 9998, in UTC", field=field)


def check_events(events: list[LoggedEvent], *, may_be_large: bool = True, may_have_nul: bool = True) -> None:
    """Check the number, order, times, names and sizes of events. Raises `InvalidMessage` or `TooLarge`.

    With `may_be_large` false, no event can have a body over the limit, and with `may_have_nul` false, no name a NUL.
    """
    if len(events) > MOST_EVENTS:
        raise TooLarge(f"a request may contain at most {MOST_EVENTS} events; send fewer", field="$.events")
    first = events[0].seq
    if not 1 <= first < MOST_SEQ:
        raise InvalidMessage("an event's seq must be 1 or more", field="$.events[0].seq")
    for index, event in enumerate(events):
        if event.seq != first + index:
            text = f"seqs in a request must be consecutive: {first + index} is expected, not {event.seq}"
            raise InvalidMessage(text, field=f"$.events[{index}].seq")
        if event.at.tzinfo is None or not FIRST_TIME <= event.at < END_OF_TIME:
            check_time(event.at, f"$.events[{index}].at")
        if may_have_nul and "\0" in event.kind + event.event_id + event.source + (event.parent_id or ""):
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
    """Return the index of the event whose JSON has too many levels; None if the levels are not in an event.

    JSON decoders do not report the position of the excess level, so this function scans the brackets of the request.
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
        return InvalidMessage("the request's JSON has too many levels", field="$")
    text = f"the event's body has too many levels: at most {DEEPEST} levels are allowed"
    return InvalidMessage(text, field=f"$.events[{index}].body")


def _check_gap(post: PostEvents) -> None:
    stated = post.gap
    assert stated is not None
    if post.events:
        raise InvalidMessage("a request may contain events or a gap, not both; send two requests", field="$.gap")
    if not 1 <= stated.from_seq <= stated.to_seq < MOST_SEQ:
        raise InvalidMessage("from_seq must be 1 or more and at most to_seq", field="$.gap.from_seq")
    if "\0" in stated.why:
        raise InvalidMessage(_NUL, field="$.gap.why")
