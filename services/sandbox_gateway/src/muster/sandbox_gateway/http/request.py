"""A Starlette `Request` that is read only as far as the sandbox's allowance permits, and the gateway's responses."""

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

    _use: AllowanceUse | None = None

    def charge_to(self, sandbox_id: str, allowances: SandboxAllowances) -> None:
        """Charge the request to the sandbox whose token it has. Raises `OverAllowance`.

        Also tells the HTTP server that the connection belongs to this sandbox, for the limits of connections.
        """
        vouch: Callable[[str], None] | None = self.scope.get("extensions", {}).get(VOUCH)
        if vouch is not None:
            vouch(sandbox_id)
        self._use = allowances.begin(sandbox_id)

    def end(self) -> None:
        """Give back the part of the sandbox's allowance that this request uses."""
        if self._use is not None:
            self._use.end()

    def number(self, name: str, otherwise: float, *, most: float) -> float:
        """Return a number from the query string, `otherwise` if it is not there.

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
        """Read the body. Raises `TooLarge` or `TooSlow`; the rest of the body is then not read, and uvicorn drops it.

        Raises `OverAllowance` or `Unavailable` if a limit is reached, and `ClientDisconnect` if the client disconnects.
        """
        try:
            async with asyncio.timeout(within_s):
                body = await self._whole()
        except TimeoutError:
            raise TooSlow(f"the body did not arrive within {within_s:g} s; send the request again") from None
        if self._use is not None:
            self._use.weigh(body)
        return body

    async def _whole(self) -> bytes:
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            raise TooLarge(f"a body is at most {MAX_BODY_BYTES} bytes, this one declares {declared}", field="$")
        if self._use is not None and declared.isdigit():
            self._use.expect(int(declared))
        pieces, size, more = list[bytes](), 0, True
        while more:
            message = await self.receive()  # Starlette's `stream()` takes 2 µs more for each message (measured)
            if message["type"] == "http.disconnect":
                raise requests.ClientDisconnect
            piece, more = message.get("body", b""), message.get("more_body", False)
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise TooLarge(f"a body is at most {MAX_BODY_BYTES} bytes", field="$")
            if self._use is not None:
                self._use.hold(size)
            pieces.append(piece)
        return b"".join(pieces)


def answer(message: object, status: int = 200) -> Response:
    """Make a response with a message as JSON."""
    return Response(encode(message), status, media_type=JSON)


def accepted(next_seq: int) -> Response:
    """Make a 202 response with the JSON of `Accepted`, written by hand because this is the most frequent response."""
    return Response(b'{"next_seq":%d}' % next_seq, 202, media_type=JSON)


def refusal(fault: Fault, trace_id: str) -> Response:
    """Make a problem+json response for a fault, with `next_seq` if the log expects another seq."""
    details = problem(fault, trace_id=trace_id or None)
    next_seq = fault.next_seq if isinstance(fault, SeqBehind) else None
    refused = Refused(**msgspec.structs.asdict(details), next_seq=next_seq)
    headers = dict[str, str]()
    if after := _RETRY_AFTER.get(fault.status):
        headers["retry-after"] = after
    if isinstance(fault, TooSlow):
        # Close the connection: otherwise a client could keep it open by sending a byte now and then.
        headers["connection"] = "close"
    if fault.status == 401:  # noqa: PLR2004 - an HTTP status
        headers["www-authenticate"] = "Bearer"
    return Response(encode(refused), fault.status, headers, CONTENT_TYPE)
