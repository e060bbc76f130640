"""What comes in: a JSON body, bounded in size and time, as the struct it must be."""

import asyncio
from contextlib import suppress
from datetime import datetime

import msgspec
from starlette.requests import Request

from muster.common.contract import decode
from muster.common.faults import Fault, InvalidMessage, TooLarge
from muster.management_api.domain.requests import Strict, refuse_unstorable

MAX_BODY_BYTES = 1 << 20
"""Decoding and checking this much takes milliseconds of the loop that all requests share. The longest task has less
than half of it. With `MOST_VALUES`, what is made of it always fits in one message of NATS (4 MiB): only numbers are
written longer than they were sent, by less than 20 bytes each."""
BODY_DEADLINE_S = 30.0
MOST_UNHEARD_BYTES, UNHEARD_S = 32 << 20, 2.0


class UnsupportedMediaType(Fault):
    """The body is not JSON."""

    status, code = 415, "unsupported_media_type"


class TooSlow(Fault):
    """The body did not arrive in time."""

    status, code = 408, "too_slow"


async def body[S: Strict](request: Request, type_: type[S], *, optional: bool = False) -> S:
    """The request's body. Raises a `Fault` that names the wrong field; an absent optional one is all defaults."""
    raw = await whole(request)
    if not raw and optional:
        raw = b"{}"
    else:
        _refuse_other_media(request.headers.get("content-type", ""))
    try:
        value = decode(raw, type_)
        refuse_unstorable(msgspec.to_builtins(value, builtin_types=(datetime,)))
    except RecursionError:
        raise InvalidMessage("nested too deep", field="$") from None
    return value


def _refuse_other_media(content_type: str) -> None:
    media = content_type.partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise UnsupportedMediaType(f"send application/json, not {media[:80] or 'a body without a content type'}")


async def _hear_out(request: Request) -> None:
    """Drop what still comes, for a while: who is answered while he sends sees a reset instead of the answer."""
    left = MOST_UNHEARD_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(UNHEARD_S):
            while left > 0 and (message := await request.receive()).get("more_body", False):
                left -= len(message["body"])


async def whole(request: Request) -> bytes:
    """The body's bytes. Raises `TooLarge` or `TooSlow`."""
    declared, gathered = request.headers.get("content-length", ""), bytearray()
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        await _hear_out(request)
        raise TooLarge(f"the body must be at most {MAX_BODY_BYTES} bytes")
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            async for chunk in request.stream():
                gathered += chunk
                if len(gathered) > MAX_BODY_BYTES:
                    await _hear_out(request)
                    raise TooLarge(f"the body must be at most {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {BODY_DEADLINE_S:g} s") from None
    return bytes(gathered)
