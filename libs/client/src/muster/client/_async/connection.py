"""Sends HTTP requests to one API.

A call has a deadline for all its tries together, and every failure is raised as an `ApiCallError`. A GET, HEAD or POST
is sent again if the connection breaks before the response (`retries`). All tries of a POST carry the same
`Idempotency-Key`, so the API performs the action once and answers the later tries with the result of the first. The API
answers 409 with `Retry-After` while the first try is still in progress.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import httpcore

from muster.client._async.network import AsyncLimitedBackend
from muster.client.errors import (
    ApiCallError,
    ApiStatusError,
    ApiTimeoutError,
    ApiUnreachableError,
    UnexpectedReplyError,
)
from muster.client.feed_outage import OnOutage
from muster.client.http_messages import (
    CUT,
    ERROR,
    FAILED,
    REDIRECT,
    HttpReply,
    Query,
    cause,
    decoded,
    encoded,
    json_body,
    target,
)
from muster.client.operation_deadline import OperationDeadline
from muster.client.retries import Retries, is_under_way
from muster.client.time_limits import CONNECT_S, SILENCE_S
from muster.common.contract import decode
from muster.common.faults import InvalidMessage
from muster.common.ids import new_id

MOST_CONNECTIONS = 256
"""Largest number of connections of one client. Each open feed uses one of them."""


@dataclass(frozen=True, kw_only=True)
class AsyncCallOptions:
    """Settings of a client's calls, among them the functions for the clock, for pauses and for random numbers."""

    deadline_s: float
    retries: Retries
    user_agent: str
    on_outage: OnOutage | None
    monotonic: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    chance: Callable[[], float]


class AsyncApiConnection:
    """A pool of HTTP connections to one API. `call` and `request` send any request; `stream` yields data on arrival."""

    def __init__(self, url: str, key: str, options: AsyncCallOptions) -> None:
        self.url, self.options = url, options
        self._headers = {
            "Authorization": f"Bearer {key}",
            "Accept": "application/json",
            "User-Agent": options.user_agent,
        }
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=MOST_CONNECTIONS, retries=1, network_backend=AsyncLimitedBackend()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
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
        more_s: float = 0.0,
    ) -> T:
        """Send a request, and return the response body decoded to the type `type_`.

        `more_s` is added to the deadline, for a request that the API may answer only after so many seconds. Raises an
        `ApiCallError` if no response arrives in time, for an error status, or if the body is not a `type_`.
        """
        content = None if body is None else json_body(body)
        all_headers = dict(headers) | ({} if content is None else {"Content-Type": "application/json"})
        reply = await self.request(method, path, content=content, query=query, headers=all_headers, more_s=more_s)
        if reply.status >= ERROR:
            raise ApiStatusError.of(reply.status, reply.body, retry_after_s=reply.retry_after_s)
        if reply.status >= REDIRECT:
            raise UnexpectedReplyError(f"{self.url} does not answer as a Muster API: it answered {reply.status}")
        try:
            return decode(reply.body or b"null", type_)
        except InvalidMessage as error:
            raise UnexpectedReplyError(f"{self.url} does not answer as a Muster API: {error}") from None

    async def request(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        query: Query = (),
        headers: Mapping[str, str] = {},
        more_s: float = 0.0,
    ) -> HttpReply:
        """Send a request and return the response, even if the response has an error status.

        `more_s` is added to the deadline. Raises `ApiUnreachableError` or `ApiTimeoutError` if no response arrives.
        """
        url, all_headers = target(self.url, path, query), self._with_defaults(method, headers)
        try:
            return await self._request_with_retries(method, url, all_headers, content, self.options.deadline_s + more_s)
        except httpcore.TimeoutException:
            raise self._late(self.options.deadline_s + more_s) from None
        except FAILED as error:
            raise self._unreachable(error) from None

    async def _request_with_retries(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, within_s: float
    ) -> HttpReply:
        ends_at_s = self.options.monotonic() + within_s
        tries = 0
        while True:
            tries += 1
            limit = OperationDeadline(math.inf, ends_at_s, self.options.monotonic)
            timeouts = dict.fromkeys(("connect", "read", "write", "pool"), limit)
            try:
                got = await self._pool.request(
                    method, url, headers=encoded(headers), content=content, extensions={"timeout": timeouts}
                )
            except CUT:
                if not self.options.retries.after_cut(method, tries):
                    raise
                continue
            reply = HttpReply(got.status, decoded(got.headers), got.content)
            under_way = is_under_way(reply, tries)
            # A request that only asks for the result of an earlier try does not count as a try.
            if under_way:
                tries -= 1
            pause_s = reply.retry_after_s if under_way else self._pause_s(method, reply, tries)
            if pause_s is None:
                return reply
            if self.options.monotonic() + pause_s >= ends_at_s:
                if under_way:
                    raise self._late(within_s)
                return reply
            await self.options.sleep(pause_s)

    def _pause_s(self, method: str, reply: HttpReply, tries: int) -> float | None:
        return self.options.retries.after_reply(method, reply, tries, self.options.chance)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        query: Query = (),
        headers: Mapping[str, str] = {},
        silence_s: float = SILENCE_S,
        ends_at_s: float = math.inf,
    ) -> AsyncGenerator[tuple[HttpReply, AsyncIterator[bytes]]]:
        """Send a request once; yield the response without its body, and an iterator over the body's chunks.

        `silence_s` is the longest time in seconds without data, `ends_at_s` is the deadline on the client's clock.
        Raises `ApiTimeoutError` if either limit is exceeded, and `ApiUnreachableError` if the connection fails.
        """
        quick = OperationDeadline(CONNECT_S, ends_at_s, self.options.monotonic)
        read = OperationDeadline(silence_s, ends_at_s, self.options.monotonic)
        timeouts = {"connect": quick, "read": read, "write": quick, "pool": quick}
        url, all_headers = target(self.url, path, query), encoded(self._with_defaults(method, headers))
        try:
            async with self._pool.stream(
                method, url, headers=all_headers, content=content, extensions={"timeout": timeouts}
            ) as got:
                yield HttpReply(got.status, decoded(got.headers), b""), got.aiter_stream()
        except BrokenPipeError:
            # The caller wrote to a closed stdout, so this error comes from the `yield` and not from httpcore. The last
            # `except` would report an unreachable API, because `FAILED` contains `OSError`.
            raise
        except httpcore.TimeoutException:
            raise ApiTimeoutError(f"{self.url} sent nothing for {silence_s:g} s") from None
        except FAILED as error:
            raise self._unreachable(error) from None

    def _with_defaults(self, method: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Add the default headers that the caller did not set, and an idempotency key to a POST without one."""
        present = {name.lower() for name in headers}
        defaults = {name: value for name, value in self._headers.items() if name.lower() not in present}
        if method == "POST" and "idempotency-key" not in present:
            defaults["Idempotency-Key"] = new_id("req")
        return defaults | dict(headers)

    def _late(self, within_s: float) -> ApiCallError:
        return ApiTimeoutError(f"no answer from {self.url} within {within_s:g} s")

    def _unreachable(self, error: Exception) -> ApiCallError:
        return ApiUnreachableError(f"cannot reach {self.url}: {cause(error)}")
