"""The HTTP requests of workers, read only within the allowance of their sandbox, and the gateway's responses."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable

import msgspec
from starlette import requests
from starlette.responses import Response

from muster.common.contract import encode
from muster.common.contracts.problem import CONTENT_TYPE, problem
from muster.common.contracts.worker_api import MAX_BODY_BYTES, Refused
from muster.common.faults import Fault, InvalidMessage, TooLarge, TooSlow
from muster.common.http import SET_OWNER
from muster.sandbox_gateway.http.request_allowance import AllowanceUse, SandboxAllowances
from muster.sandbox_gateway.sandbox_log.domain.frames import SeqBehind

BODY_S = 30.0
JSON = "application/json"
_PACE_S = 0.02
_RETRY_AFTER = {429: "2", 503: "1"}


class WorkerRequest(requests.Request):
    """A worker's request. Its body is limited in bytes, in reading time and by the allowance of the sandbox."""

    _use: AllowanceUse | None = None

    def charge_to(self, sandbox_id: str, allowances: SandboxAllowances) -> None:
        """Charge the request to the allowance of the sandbox that its token names. Raises `OverAllowance`.

        Also reports to the HTTP server that the connection belongs to this sandbox. The server limits the connections
        of each sandbox.
        """
        set_owner: Callable[[str], None] | None = self.scope.get("extensions", {}).get(SET_OWNER)
        if set_owner is not None:
            set_owner(sandbox_id)
        self._use = allowances.begin(sandbox_id)

    def end(self) -> None:
        """End the request, so that it no longer counts against the allowance of its sandbox."""
        if self._use is not None:
            self._use.end()

    def number(self, name: str, otherwise: float, *, most: float) -> float:
        """Return the number in the query parameter `name`, or `otherwise` if the parameter is missing.

        Raises `InvalidMessage` if the value is not a number from 0 to `most`.
        """
        try:
            value = float(self.query_params.get(name, otherwise))
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            raise InvalidMessage(f"{name} must be a number from 0 to {most:g}", field=f"$.{name}")
        return value

    async def body(self, *, within_s: float = BODY_S) -> bytes:
        """Read the request's body within `within_s` seconds. Raises `TooLarge` or `TooSlow`.

        Raises `OverAllowance` or `Unavailable` if a limit is reached, and `ClientDisconnect` if the client disconnects.
        After an error the rest of the body is not read, and uvicorn drops it.
        """
        try:
            async with asyncio.timeout(within_s):
                body = await self._whole()
        except TimeoutError:
            raise TooSlow(f"the request's body did not arrive within {within_s:g} s; send the request again") from None
        if self._use is not None:
            self._use.weigh(body)
        return body

    async def pieces(self, size: int, *, within_s: float) -> AsyncGenerator[bytes]:
        """Yield the pieces of a body of `size` bytes, no faster than the allowance of the sandbox permits.

        The body is not kept in memory, so it may be longer than `MAX_BODY_BYTES`. Raises `InvalidMessage` if it has
        another size, `TooSlow` after `within_s` seconds, and `ClientDisconnect`.
        """
        received, more = 0, True
        try:
            async with asyncio.timeout(within_s):
                while more:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise requests.ClientDisconnect
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    received += len(piece)
                    if received > size or (not more and received < size):
                        raise InvalidMessage(f"the body has not the {size} bytes of its Content-Length", field="$")
                    # While nothing is read, the connection slows the client down.
                    while self._use is not None and not self._use.take(len(piece)):  # noqa: ASYNC110 - time refills it
                        await asyncio.sleep(_PACE_S)
                    yield piece
        except TimeoutError:
            raise TooSlow(f"the request's body did not arrive within {within_s:g} s; send the request again") from None

    async def _whole(self) -> bytes:
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            raise TooLarge(f"a request's body is at most {MAX_BODY_BYTES} bytes, not {declared}; send less", field="$")
        if self._use is not None and declared.isdigit():
            self._use.expect(int(declared))
        pieces, size, more = list[bytes](), 0, True
        while more:
            # The body is read without Starlette's `stream()`, which adds 2 µs for each part of the body (measured).
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise requests.ClientDisconnect
            piece, more = message.get("body", b""), message.get("more_body", False)
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise TooLarge(f"a request's body is at most {MAX_BODY_BYTES} bytes; send less", field="$")
            if self._use is not None:
                self._use.hold(size)
            pieces.append(piece)
        return b"".join(pieces)


def answer(message: object, status: int = 200) -> Response:
    """Make an HTTP response whose body is `message` as JSON."""
    return Response(encode(message), status, media_type=JSON)


def accepted(next_seq: int) -> Response:
    """Make a 202 response with the JSON of `Accepted`.

    The JSON is formatted without an encoder, because this is the gateway's most frequent response.
    """
    return Response(b'{"next_seq":%d}' % next_seq, 202, media_type=JSON)


def refusal(fault: Fault, trace_id: str) -> Response:
    """Make a problem+json response for a fault.

    For `SeqBehind` the response contains `next_seq`: the seq that the sandbox's log expects next.
    """
    details = problem(fault, trace_id=trace_id or None)
    next_seq = fault.next_seq if isinstance(fault, SeqBehind) else None
    refused = Refused(**msgspec.structs.asdict(details), next_seq=next_seq)
    headers = dict[str, str]()
    after = str(math.ceil(fault.retry_after_s)) if fault.retry_after_s is not None else _RETRY_AFTER.get(fault.status)
    if after:
        headers["retry-after"] = after
    if isinstance(fault, TooSlow):
        # The gateway closes the connection, because a slow client could keep it open by sending single bytes.
        headers["connection"] = "close"
    if fault.status == 401:  # noqa: PLR2004 - an HTTP status
        headers["www-authenticate"] = "Bearer"
    return Response(encode(refused), fault.status, headers, CONTENT_TYPE)
