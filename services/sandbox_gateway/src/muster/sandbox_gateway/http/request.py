"""Starlette's `Request`, read no further than a sandbox's allowance permits, and the gateway's kinds of answers."""

import asyncio
from collections.abc import Callable

import msgspec
from starlette import requests
from starlette.responses import Response

from muster.common.contract import encode
from muster.common.contracts.doors import MAX_BODY_BYTES, Refused
from muster.common.contracts.problem import CONTENT_TYPE, problem
from muster.common.faults import Fault, InvalidMessage, TooLarge, TooSlow
from muster.common.http import VOUCH
from muster.sandbox_gateway.http.allowance import AllowanceUse, SandboxAllowances
from muster.sandbox_gateway.sandbox_log.domain.frames import SeqBehind

BODY_S = 30.0
JSON = "application/json"
_RETRY_AFTER = {429: "2", 503: "1"}


class WorkerRequest(requests.Request):
    """A request whose body is bounded in size, in time and by the allowance of the sandbox that sends it."""

    _visit: AllowanceUse | None = None

    def of(self, sandbox_id: str, allowances: SandboxAllowances) -> None:
        """Say whose request it is, once its token was accepted. Raises `OverAllowance`."""
        vouch: Callable[[str], None] | None = self.scope.get("extensions", {}).get(VOUCH)
        if vouch is not None:
            vouch(sandbox_id)
        self._visit = allowances.visit(sandbox_id)

    def end(self) -> None:
        """Give back what it holds of its sandbox's allowance."""
        if self._visit is not None:
            self._visit.end()

    def number(self, name: str, otherwise: float, *, most: float) -> float:
        """Return a number of the query, between 0 and `most`. Raises `InvalidMessage` naming it."""
        try:
            value = float(self.query_params.get(name, otherwise))
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            raise InvalidMessage(f"{name} is a number from 0 to {most:g}", field=f"$.{name}")
        return value

    async def body(self, *, within_s: float = BODY_S) -> bytes:
        """Read the body. Raises `TooLarge` or `TooSlow` without reading on; uvicorn then drops the rest.

        Raises `ClientDisconnect` where the client goes away before the end.
        """
        try:
            async with asyncio.timeout(within_s):
                body = await self._whole()
        except TimeoutError:
            raise TooSlow(f"the body did not come within {within_s:g} s") from None
        if self._visit is not None:
            self._visit.weigh(body)
        return body

    async def _whole(self) -> bytes:
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            raise TooLarge(f"a body is at most {MAX_BODY_BYTES} bytes, this one says {declared}", field="$")
        if self._visit is not None and declared.isdigit():
            self._visit.expect(int(declared))
        pieces, size, more = list[bytes](), 0, True
        while more:
            message = await self.receive()  # not `stream()`, which takes 2 µs more
            if message["type"] == "http.disconnect":
                raise requests.ClientDisconnect
            piece, more = message.get("body", b""), message.get("more_body", False)
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise TooLarge(f"a body is at most {MAX_BODY_BYTES} bytes", field="$")
            if self._visit is not None:
                self._visit.hold(size)
            pieces.append(piece)
        return b"".join(pieces)


def answer(message: object, status: int = 200) -> Response:
    """Return a message as JSON."""
    return Response(encode(message), status, media_type=JSON)


def accepted(next_seq: int) -> Response:
    """Return 202 with the shape of `Accepted`."""
    return Response(b'{"next_seq":%d}' % next_seq, 202, media_type=JSON)


def refusal(fault: Fault, trace_id: str) -> Response:
    """Return a fault as a problem."""
    told = problem(fault, trace_id=trace_id or None)
    next_seq = fault.next_seq if isinstance(fault, SeqBehind) else None
    refused = Refused(**msgspec.structs.asdict(told), next_seq=next_seq)
    headers = dict[str, str]()
    if after := _RETRY_AFTER.get(fault.status):
        headers["retry-after"] = after
    if isinstance(fault, TooSlow):
        headers["connection"] = "close"  # else a client that sends a byte now and then keeps the connection for ever
    if fault.status == 401:  # noqa: PLR2004 - an HTTP status
        headers["www-authenticate"] = "Bearer"
    return Response(encode(refused), fault.status, headers, CONTENT_TYPE)
