"""The client's side of one connection to the proxy: reads one request head, and writes one answer.

h11 parses the head strictly: it refuses conflicting lengths, spaces before a colon and control characters. A connection
carries one request, and bytes after its body are never forwarded. So no second request can be hidden in the first one.
"""

import asyncio
import http
import re
from contextlib import suppress
from typing import cast

import h11

from muster.common.faults import Fault, InvalidMessage, TooSlow, Unauthenticated

MOST_HEAD_BYTES = 64 << 10
HEAD_S = 15.0
"""Seconds within which the head of a request must be complete."""
_CHUNK = 64 << 10
_LINGER_S, _LINGER_BYTES = 2.0, 1 << 20
_STATUS = {InvalidMessage.status: http.HTTPStatus.BAD_REQUEST, Unauthenticated.status: 407}
_UNPRINTABLE = re.compile(r"[^ -~]")
_LONGEST_REASON = 200


class BadHead(InvalidMessage):
    """The head of a request to the proxy is not valid HTTP, or too long."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.answer_status = status


class ClientSide:
    """One connection from a sandbox to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.busy = True
        """Whether the client waits for an answer. A connection that was refused is closed first if there are many."""
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)

    def shut(self) -> None:
        """Close the connection at once, because too many connections without a valid token are open."""
        self.writer.transport.abort()

    async def request(self) -> h11.Request | None:
        """Return the head of the connection's request; None if the client sends none.

        Raises `BadHead` or `TooSlow`.
        """
        try:
            async with asyncio.timeout(HEAD_S):
                event = await self.event()
        except TimeoutError:
            raise TooSlow(f"the request's head did not arrive within {HEAD_S:g} s") from None
        except h11.RemoteProtocolError as error:
            raise BadHead(f"the request is not valid HTTP: {error}", error.error_status_hint) from None
        return event if isinstance(event, h11.Request) else None

    async def event(self) -> "h11.Request | h11.Data | h11.EndOfMessage | h11.ConnectionClosed | None":
        """Return the next part of the client's request. None means that the request has ended."""
        while True:
            event = self.http.next_event()
            if event is h11.PAUSED:
                return None
            if event is not h11.NEED_DATA:
                return cast("h11.Request | h11.Data | h11.EndOfMessage | h11.ConnectionClosed", event)
            self.http.receive_data(await self.reader.read(_CHUNK))

    def check_no_body(self) -> None:
        """Raise `InvalidMessage` if a CONNECT request has a body."""
        if not isinstance(self.http.next_event(), h11.EndOfMessage):
            raise InvalidMessage("a CONNECT request must not have a body", field="$.body")

    async def send(self, event: h11.Event) -> None:
        """Send a part of the answer."""
        if data := self.http.send(event):
            self.writer.write(data)
            await self.writer.drain()

    async def refuse(self, fault: Fault) -> None:
        """Answer with the fault's status and its sentence, which is also the reason in the status line.

        Programs such as pip show only the status line of a refused CONNECT.
        """
        self.busy = False
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        status = fault.answer_status if isinstance(fault, BadHead) else _STATUS.get(fault.status, fault.status)
        text = _UNPRINTABLE.sub("?", str(fault))
        body = f"muster: {text}\n".encode()
        headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
        headers += [("connection", "close")]
        if status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            headers.append(("proxy-authenticate", "Bearer"))
        if status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
            headers.append(("retry-after", "2"))
        answer = h11.Response(status_code=status, headers=headers, reason=text[:_LONGEST_REASON].encode())
        with suppress(OSError, h11.LocalProtocolError):
            await self.send(answer)
            await self.send(h11.Data(data=body))
            await self.send(h11.EndOfMessage())
            await self._linger()

    async def _linger(self) -> None:
        """Read the rest of the client's request, so that the client can read the answer before the connection ends."""
        self.writer.write_eof()
        left = _LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while left > 0 and (chunk := await self.reader.read(_CHUNK)):
                    left -= len(chunk)
