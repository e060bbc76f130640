"""One API over HTTP: every call has a deadline, every refusal is a `ApiCallError`, a feed survives cut connections."""

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
"""The API writes at least every 15 s: a feed that is silent for so long is dead."""
RECONNECT_S = 0.5
NOW = "now"
"""The place of a reader who wants only what comes; where it is not known, everything comes."""
MOST_TRIES = 3
ERROR = 400
_CONFLICT = 409
_REPEATABLE = frozenset({"GET", "HEAD", "POST"})
"""What may be sent again when no answer came: a POST is known by its key."""
_NUMBER = re.compile(r"^\[Errno -?\d+\] ")
Query = Iterable[tuple[str, object]]


@dataclass(frozen=True)
class HttpReply:
    """What came back. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ApiConnection:
    """The way to one API. Use as `async with`."""

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
        """The answer as a `type_`; `wait_s` is how much longer than usual it may take."""
        content = None if body is None else msgspec.json.encode(body)
        given = dict(headers) | ({} if content is None else {"Content-Type": "application/json"})
        answer = await self.request(method, path, content=content, query=query, headers=given, wait_s=wait_s)
        if answer.status >= ERROR:
            raise ApiCallError.of(answer.status, answer.body)
        try:
            return decode(answer.body or b"null", type_)
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
        """The answer, whatever its status. A POST gets one key, so that it is done once however often it is sent."""
        deadline_s = self._deadline_s + wait_s
        target, sent = self._target(path, query), self._complete(method, headers)
        try:
            async with asyncio.timeout(deadline_s):
                return await self._tried(method, target, sent, content)
        except (TimeoutError, httpcore.TimeoutException):
            raise ApiCallError(f"no answer from {self.url} within {deadline_s:g} s", Exit.TIMEOUT) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            raise self._unreachable(error) from None

    async def _tried(self, method: str, target: str, headers: Mapping[str, str], content: bytes | None) -> HttpReply:
        tries = 0
        while True:
            tries += 1
            try:
                got = await self._pool.request(method, target, headers=_encoded(headers), content=content)
            except (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError):
                if tries == MOST_TRIES or method not in _REPEATABLE:
                    raise
                continue
            answer = HttpReply(got.status, _decoded(got.headers), got.content)
            after = answer.headers.get("retry-after", "")
            if tries > 1 and answer.status == _CONFLICT and after.isdigit():  # our own first try is still at work
                await asyncio.sleep(int(after))
                continue
            return answer

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
        """An answer (without its body), and its body as it arrives."""
        timeouts = {"connect": CONNECT_S, "read": answer_s, "write": CONNECT_S, "pool": CONNECT_S}
        target, sent = self._target(path, query), _encoded(self._complete(method, headers))
        try:
            async with self._pool.stream(
                method, target, headers=sent, content=content, extensions={"timeout": timeouts}
            ) as got:
                yield HttpReply(got.status, _decoded(got.headers), b""), got.aiter_stream()
        except BrokenPipeError:  # the caller's own: the reader of stdout has gone (httpcore words its errors itself)
            raise
        except httpcore.TimeoutException:
            raise ApiCallError("the feed fell silent", Exit.TIMEOUT) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            raise self._unreachable(error) from None

    async def feed(
        self, path: str, after: str | None = None, *, follow: bool = True, openings: bool = False, query: Query = ()
    ) -> AsyncGenerator[ServerSentEvent]:
        """A feed of server-sent events: nothing lost and nothing twice, whatever happens to the connection.

        Ends after `end` (yielded too) or, without `follow`, at the present end. Raises `ApiCallError` when the API says no,
        or has been away for a minute. With `openings`, an `open` of our own tells of each connection: a reader that
        begins at `NOW` then looks at how things are, and misses nothing.
        """
        outage = FeedOutage()
        while True:
            try:
                async with aclosing(self._connected(path, after, [*query, ("follow", follow)])) as events:
                    async for event in events:
                        if event.name == "problem":
                            raise ApiCallError.of(_status(event.body), event.body)
                        outage.heard(new=event.id not in ("", after))
                        after = event.id or after
                        if event.name == "reset":
                            after = None
                        if event.name != "open" or openings:
                            yield event
                        if event.name == "end":
                            return
                if not follow:
                    return
            except ApiCallError as refusal:
                outage.bear(refusal)
            await asyncio.sleep(RECONNECT_S)

    async def _connected(self, path: str, after: str | None, query: Query) -> AsyncGenerator[ServerSentEvent]:
        """One connection's worth of events; ends, or raises a passing `ApiCallError`, when it is cut."""
        wanted = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        async with self.stream("GET", path, query=query, headers=wanted) as (answer, chunks):
            if answer.status >= ERROR:
                raise ApiCallError.of(answer.status, b"".join([chunk async for chunk in chunks]))
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise ApiCallError(f"{self.url} does not answer as a Muster API: this is no feed", Exit.FAILURE)
            yield ServerSentEvent("open", "", b"")
            async for event in sent_events(chunks):
                yield event

    def _target(self, path: str, query: Query) -> str:
        given = [(name, _written(value)) for name, value in query if value is not None]
        joint = "&" if "?" in path else "?"
        return self.url + path + (joint + urlencode(given) if given else "")

    def _complete(self, method: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        given = {name.lower() for name in headers}
        ours = {name: value for name, value in self._headers.items() if name.lower() not in given}
        if method == "POST" and "idempotency-key" not in given:
            ours["Idempotency-Key"] = new_id("req")
        return ours | dict(headers)

    def _unreachable(self, error: Exception) -> ApiCallError:
        return ApiCallError(f"cannot reach {self.url}: {_why(error)}", Exit.UNREACHABLE)


def part(value: str) -> str:
    """`value` as one part of a path."""
    return quote(value, safe="")


def _why(error: Exception) -> str:
    """Without the number that the system gives it."""
    if isinstance(error, httpcore.ConnectError) and "All connection attempts failed" in str(error):
        return "nothing listens there"
    if isinstance(error, httpcore.ProtocolError):
        return "what listens there does not speak HTTP, or hung up"
    if "WRONG_VERSION_NUMBER" in str(error):
        return "it does not speak TLS; is it http:// rather than https://?"
    return _NUMBER.sub("", str(error)) or type(error).__name__


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _status(body: bytes) -> int:
    return decode(body, Problem).status
