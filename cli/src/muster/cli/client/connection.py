"""Sends HTTP requests to one API and reads its feeds of server-sent events.

A call has a deadline, and every failure is raised as an `ApiCallError`. Three rules keep a cut connection harmless:

- A GET, HEAD or POST is sent again, at most `MAX_TRIES` times in all, if the connection breaks before the response.
  All tries of a POST carry the same `Idempotency-Key`, so the API performs the action once and answers the later
  tries with the result of the first. It answers 409 with `Retry-After` while the first try is still in progress.
- A feed remembers the id of the last event that it yielded and sends that id as `Last-Event-ID` when it reconnects.
  The API continues after that event, so no event is lost and none is yielded twice.
- A feed whose connection is silent for `SILENCE_S` is reconnected, because the API writes at least every 15 s.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlencode

import httpcore
import msgspec

from muster.cli.client.api_call_error import ApiCallError
from muster.cli.client.feed_outage import FeedOutage
from muster.cli.client.sse import ServerSentEvent, sent_events
from muster.cli.console.output import Exit
from muster.common.contract import decode
from muster.common.contracts.problem import Problem
from muster.common.faults import InvalidMessage
from muster.common.ids import new_id

CONNECT_S = 3.0
SILENCE_S = 45.0
"""Seconds without a byte after which a feed counts as broken; three times the 15 s at which the API writes."""
RECONNECT_S = 0.5
"""Pause in seconds before a feed connects again."""
NOW = "now"
"""Feed position that selects only future events. A server that does not know it sends all events."""
MAX_TRIES = 3
ERROR = 400
"""Lowest HTTP status that is an error."""
_CONFLICT = 409
_REPEATABLE = frozenset({"GET", "HEAD", "POST"})
"""Methods that are safe to send again if no response came. The idempotency key makes a POST safe."""
_ERRNO_PREFIX = re.compile(r"^\[Errno -?\d+\] ")
Query = Iterable[tuple[str, object]]


@dataclass(frozen=True)
class HttpReply:
    """Status, headers and body of a response. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ApiConnection:
    """A pool of HTTP connections to one API, for use with `async with`."""

    def __init__(self, url: str, key: str, *, deadline_s: float) -> None:
        self.url, self._deadline_s = url.rstrip("/"), deadline_s
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "application/json", "User-Agent": "muster-cli"}
        self._pool = httpcore.AsyncConnectionPool(max_connections=32, retries=1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def call[T](
        self,
        method: str,
        path: str,
        type_: type[T],
        *,
        body: object = None,
        query: Query = (),
        headers: Mapping[str, str] = {},
        wait_s: float = 0.0,
    ) -> T:
        """Send a request and decode the response body as a `type_`; `wait_s` seconds are added to the deadline.

        Raises `ApiCallError` if there is no response in time, for an error status, or if the body is no `type_`.
        """
        content = None if body is None else msgspec.json.encode(body)
        all_headers = dict(headers) | ({} if content is None else {"Content-Type": "application/json"})
        reply = await self.request(method, path, content=content, query=query, headers=all_headers, wait_s=wait_s)
        if reply.status >= ERROR:
            raise ApiCallError.of(reply.status, reply.body)
        try:
            return decode(reply.body or b"null", type_)
        except InvalidMessage as error:
            raise ApiCallError(f"{self.url} does not answer as a Muster API: {error}", Exit.FAILURE) from None

    async def request(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        query: Query = (),
        headers: Mapping[str, str] = {},
        wait_s: float = 0.0,
    ) -> HttpReply:
        """Send a request and return the response, whatever its status; `wait_s` seconds are added to the deadline.

        Raises `ApiCallError` if the API cannot be reached or does not respond in time.
        """
        deadline_s = self._deadline_s + wait_s
        target, all_headers = self._target(path, query), self._with_defaults(method, headers)
        try:
            async with asyncio.timeout(deadline_s):
                return await self._request_with_retries(method, target, all_headers, content)
        except (TimeoutError, httpcore.TimeoutException):
            raise ApiCallError(f"no answer from {self.url} within {deadline_s:g} s", Exit.TIMEOUT) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            raise self._unreachable(error) from None

    async def _request_with_retries(
        self, method: str, target: str, headers: Mapping[str, str], content: bytes | None
    ) -> HttpReply:
        tries = 0
        while True:
            tries += 1
            try:
                got = await self._pool.request(method, target, headers=_encoded(headers), content=content)
            except (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError):
                if tries == MAX_TRIES or method not in _REPEATABLE:
                    raise
                continue
            reply = HttpReply(got.status, _decoded(got.headers), got.content)
            after = reply.headers.get("retry-after", "")
            # The API still performs the first try of this request; its result is the reply to a later try.
            if tries > 1 and reply.status == _CONFLICT and after.isdigit():
                await asyncio.sleep(int(after))
                continue
            return reply

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        query: Query = (),
        headers: Mapping[str, str] = {},
        answer_s: float = SILENCE_S,
    ) -> AsyncGenerator[tuple[HttpReply, AsyncIterator[bytes]]]:
        """Send a request; yield the response without its body, and an iterator over the body's chunks.

        `answer_s` is the longest allowed silence in seconds. Raises `ApiCallError` if it is exceeded or the connection
        fails.
        """
        timeouts = {"connect": CONNECT_S, "read": answer_s, "write": CONNECT_S, "pool": CONNECT_S}
        target, all_headers = self._target(path, query), _encoded(self._with_defaults(method, headers))
        try:
            async with self._pool.stream(
                method, target, headers=all_headers, content=content, extensions={"timeout": timeouts}
            ) as got:
                yield HttpReply(got.status, _decoded(got.headers), b""), got.aiter_stream()
        except BrokenPipeError:
            # The caller's write to a closed stdout, thrown in at the `yield`. httpcore never raises this type itself,
            # and the `OSError` below would report it as an unreachable API.
            raise
        except httpcore.TimeoutException:
            raise ApiCallError(f"{self.url} sent nothing for {answer_s:g} s", Exit.TIMEOUT) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            raise self._unreachable(error) from None

    async def feed(
        self, path: str, after: str | None = None, *, follow: bool = True, openings: bool = False, query: Query = ()
    ) -> AsyncGenerator[ServerSentEvent]:
        """Yield the server-sent events after the position `after`, each once and in order; reconnect when cut.

        Returns after the event `end` (which is yielded too) or, without `follow`, after the newest event. Raises
        `ApiCallError` if the API refuses the request or stays unreachable for a minute. A `reset` event says that the
        API does not know the position any more and sends all events from the beginning.

        With `openings`, an event `open` is yielded for each new connection, before the connection's own events. A
        reader that starts at `NOW` can then read the current state after `open` and misses no change: each later change
        comes as an event.
        """
        outage = FeedOutage()
        while True:
            try:
                async with aclosing(self._connected(path, after, [*query, ("follow", follow)])) as events:
                    async for event in events:
                        if event.name == "problem":
                            raise ApiCallError.of(_status(event.body), event.body)
                        # A server that fails after its first event repeats that event at each connection. Only an
                        # event with a new id shows that the feed makes progress.
                        outage.record_event(new=event.id not in ("", after))
                        after = event.id or after
                        if event.name == "reset":
                            after = None
                        if event.name != "open" or openings:
                            yield event
                        if event.name == "end":
                            return
                if not follow:
                    return
            except ApiCallError as error:
                outage.record_failure(error)
            await asyncio.sleep(RECONNECT_S)

    async def _connected(self, path: str, after: str | None, query: Query) -> AsyncGenerator[ServerSentEvent]:
        """Connect once; yield `open` and then the events until the connection ends.

        Raises a retryable `ApiCallError` if the connection is cut, and a final one if the API refuses the request.
        """
        feed_headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        async with self.stream("GET", path, query=query, headers=feed_headers) as (reply, chunks):
            if reply.status >= ERROR:
                raise ApiCallError.of(reply.status, b"".join([chunk async for chunk in chunks]))
            content_type = reply.headers.get("content-type", "")
            if not content_type.startswith("text/event-stream"):
                text = (
                    f"{self.url} does not answer as a Muster API: {path} sent {content_type or 'no content type'} "
                    "instead of text/event-stream"
                )
                raise ApiCallError(text, Exit.FAILURE)
            yield ServerSentEvent("open", "", b"")
            async for event in sent_events(chunks):
                yield event

    def _target(self, path: str, query: Query) -> str:
        pairs = [(name, _query_text(value)) for name, value in query if value is not None]
        separator = "&" if "?" in path else "?"
        return self.url + path + (separator + urlencode(pairs) if pairs else "")

    def _with_defaults(self, method: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Add the default headers that the caller did not set, and an idempotency key to a POST without one."""
        present = {name.lower() for name in headers}
        defaults = {name: value for name, value in self._headers.items() if name.lower() not in present}
        if method == "POST" and "idempotency-key" not in present:
            defaults["Idempotency-Key"] = new_id("req")
        return defaults | dict(headers)

    def _unreachable(self, error: Exception) -> ApiCallError:
        return ApiCallError(f"cannot reach {self.url}: {_reason(error)}", Exit.UNREACHABLE)


def part(value: str) -> str:
    """Return `value` percent-encoded, so that it is one segment of a URL path."""
    return quote(value, safe="")


def _reason(error: Exception) -> str:
    """Return the cause of a connection failure in words, without the errno."""
    if isinstance(error, httpcore.ConnectError) and "All connection attempts failed" in str(error):
        return "no server listens there"
    if isinstance(error, httpcore.ProtocolError):
        return "the server there does not speak HTTP, or it closed the connection"
    if "WRONG_VERSION_NUMBER" in str(error):
        return "the server there does not speak TLS; try http:// instead of https://"
    return _ERRNO_PREFIX.sub("", str(error)) or type(error).__name__


def _query_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _status(body: bytes) -> int:
    return decode(body, Problem).status
