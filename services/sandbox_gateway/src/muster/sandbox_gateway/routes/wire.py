"""Just enough HTTP: a request that is read no further than it may be, and an answer."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from muster.common.contract import encode
from muster.common.contracts.doors import MAX_BODY_BYTES, Refused
from muster.common.contracts.problem import CONTENT_TYPE, problem
from muster.common.faults import Fault, InvalidMessage, TooLarge
from muster.common.http import VOUCH
from muster.sandbox_gateway.domain.allowance import Allowances, Visit
from muster.sandbox_gateway.domain.frames import Behind

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

BODY_S = 30.0
_JSON = b"application/json"
_RETRY_AFTER = {429: b"2", 503: b"1"}


class Disconnected(Exception):
    """The other side went away in the middle of its request."""


class TooSlow(Fault):
    """The body did not come in time."""

    status, code = 408, "too_slow"


class Request:
    """One request, as ASGI gives it."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope, self._receive = scope, receive
        self.method = str(scope["method"])
        self.path = str(scope["path"])
        self._visit: Visit | None = None

    def of(self, sandbox_id: str, allowances: Allowances) -> None:
        """Say whose request it is, once its token was accepted. Raises `OverAllowance`."""
        vouch: Callable[[str], None] | None = self._scope.get("extensions", {}).get(VOUCH)
        if vouch is not None:
            vouch(sandbox_id)
        self._visit = allowances.visit(sandbox_id)

    def end(self) -> None:
        """Give back what it holds of its sandbox's allowance."""
        if self._visit is not None:
            self._visit.end()

    def header(self, name: bytes) -> str:
        """A header's value, or nothing."""
        for key, value in self._scope["headers"]:
            if key == name:
                return bytes(value).decode("latin-1")
        return ""

    def number(self, name: str, otherwise: float, *, most: float) -> float:
        """A number in the query, between 0 and `most`. Raises `InvalidMessage` naming it."""
        query = dict(parse_qsl(bytes(self._scope["query_string"]).decode("latin-1"), keep_blank_values=True))
        try:
            value = float(query.get(name, otherwise))
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            raise InvalidMessage(f"{name} is a number from 0 to {most:g}", field=f"$.{name}")
        return value

    async def body(self, *, within_s: float = BODY_S) -> bytes:
        """All of the body. Raises `TooLarge` or `TooSlow` without reading on; uvicorn then drops what still comes."""
        try:
            async with asyncio.timeout(within_s):
                body = await self._whole()
        except TimeoutError:
            raise TooSlow(f"the body did not come within {within_s:g} s") from None
        if self._visit is not None:
            self._visit.weigh(body)
        return body

    async def _whole(self) -> bytes:
        declared = self.header(b"content-length")
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            raise TooLarge(f"a body is at most {MAX_BODY_BYTES} bytes, this one says {declared}", field="$")
        if self._visit is not None and declared.isdigit():
            self._visit.expect(int(declared))
        pieces, size = list[bytes](), 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            piece = message.get("body", b"")
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise TooLarge(f"a body is at most {MAX_BODY_BYTES} bytes", field="$")
            if self._visit is not None:
                self._visit.hold(size)
            pieces.append(piece)
            if not message.get("more_body"):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Response(msgspec.Struct, frozen=True):
    """One answer."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", _JSON),)

    async def send(self, send: Send) -> None:
        """Say it."""
        headers = [*self.headers, (b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def answer(message: object, status: int = 200) -> Response:
    """A message as JSON."""
    return Response(status, encode(message))


def accepted(next_seq: int) -> Response:
    """202, the shape of `Accepted`."""
    return Response(202, b'{"next_seq":%d}' % next_seq)


def refusal(fault: Fault, trace_id: str) -> Response:
    """A fault as a problem."""
    told = problem(fault, trace_id=trace_id or None)
    next_seq = fault.next_seq if isinstance(fault, Behind) else None
    refused = Refused(**msgspec.structs.asdict(told), next_seq=next_seq)
    headers = [(b"content-type", CONTENT_TYPE.encode())]
    if after := _RETRY_AFTER.get(fault.status):
        headers.append((b"retry-after", after))
    if isinstance(fault, TooSlow):
        headers.append((b"connection", b"close"))  # or whoever is slow would keep it for as long as something drips
    if fault.status == 401:  # noqa: PLR2004 - an HTTP status
        headers.append((b"www-authenticate", b"Bearer"))
    return Response(fault.status, encode(refused), tuple(headers))
