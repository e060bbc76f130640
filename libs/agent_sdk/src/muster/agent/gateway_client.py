"""The worker's HTTP client for the gateway. Every request has a deadline and is repeated while a retry can help."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpcore
import msgspec

from muster.agent.exit_codes import EpochFenced, LogBehind, Rejected, Unreachable
from muster.common.contract import decode, encode
from muster.common.contracts.sandbox_log import ClippedBody
from muster.common.contracts.worker_api import Accepted, Beat, Handoff, InboxPage, PostEvents, PostFinished

CALL_DEADLINE_S = 10.0
_UPLOAD_DEADLINE_S, _MOST_SLOW_UPLOADS = 120.0, 3
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _LONGEST_RETRY_AFTER_S = 0.1, 3.0, 30.0
_REFUSALS, _TOO_SLOW, _TOO_MANY, _SERVER = 300, 408, 429, 500

logger = logging.getLogger(__name__)


class RefusalProblem(msgspec.Struct):
    """The fields of an HTTP error body that the worker reads. All are optional, because proxies send other bodies."""

    detail: str = ""
    title: str = ""
    next_seq: int | None = None


class GatewayClient:
    """A worker's HTTP connection to its gateway. After a 410, every call raises `EpochFenced` and sends nothing.

    `sleep` waits between two tries of a request. A test passes its own, so that hours of retries take seconds.
    """

    def __init__(
        self,
        handoff: Handoff,
        *,
        jitter: Callable[[float, float], float] = random.uniform,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = handoff.gateway_url.rstrip("/")
        self._sandbox = f"/v1/sandboxes/{handoff.sandbox_id}"
        self._headers: dict[bytes | str, bytes | str] = {
            "host": urlsplit(self._url).netloc or "gateway",
            "authorization": f"Bearer {handoff.token}",
            "content-type": "application/json",
        }
        self._pool = httpcore.AsyncConnectionPool(uds=handoff.gateway_socket, max_connections=8, keepalive_expiry=30.0)
        self._jitter, self._sleep = jitter, sleep
        self._model_deadline_s = handoff.model_deadline_s
        self._fenced: str | None = None

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.__aexit__(kind, error, trace)

    async def post_events(self, batch: PostEvents) -> Accepted:
        """Post events. Return when the gateway has stored them. Raises `LogBehind` if the log expects another seq."""
        return decode(await self._insist("POST", f"{self._sandbox}/events", encode(batch)), Accepted)

    async def keep_payload(self, sha256: str, body: bytes) -> ClippedBody:
        """Upload the whole body of a large event. Return the body with which the event must be posted.

        A repeated upload has no further effect. Raises `Rejected` if the gateway does not keep the body, or if the
        connection was too slow for it several times: later events must not wait for ever.
        """
        path = f"{self._sandbox}/payloads/{sha256}"
        answer = await self._insist("PUT", path, body, deadline_s=_UPLOAD_DEADLINE_S, most_slow=_MOST_SLOW_UPLOADS)
        return decode(answer, ClippedBody)

    async def finished(self, account: PostFinished) -> Accepted:
        """Post the result of the run, after all events of the run. A repeated request has no further effect."""
        return decode(await self._insist("POST", f"{self._sandbox}/finished", encode(account)), Accepted)

    async def beat(self, beat: Beat) -> None:
        """Post a heartbeat, without retries, because the next heartbeat replaces it. Raises `Unreachable`."""
        await self._call("POST", f"{self._sandbox}/beat", encode(beat), CALL_DEADLINE_S)

    async def inbox(self, after: int, wait_s: float) -> InboxPage:
        """Return the steering messages after a position. If there are none, wait up to `wait_s` seconds."""
        path = f"{self._sandbox}/inbox?after={after}&wait_s={wait_s:g}"
        return decode(await self._insist("GET", path, None, deadline_s=wait_s + CALL_DEADLINE_S), InboxPage)

    async def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one model request in OpenAI's format to the gateway, and return the response."""
        body = await self._insist("POST", "/v1/chat/completions", encode(request), deadline_s=self._model_deadline_s)
        return decode(body, dict[str, Any])

    async def _insist(
        self,
        method: str,
        path: str,
        body: bytes | None,
        deadline_s: float = CALL_DEADLINE_S,
        most_slow: int | None = None,
    ) -> bytes:
        """Send a request until the gateway answers, so that a restart of the gateway does not end the run.

        Raises `Rejected` after `most_slow` answers that the body arrived too slowly.
        """
        pause_s, slow = _FIRST_PAUSE_S, 0
        while True:
            try:
                return await self._call(method, path, body, deadline_s)
            except Unreachable as away:
                slow += away.status == _TOO_SLOW
                if slow == most_slow:
                    raise Rejected(_TOO_SLOW, f"the whole body was not kept: {away}") from None
                if pause_s == _FIRST_PAUSE_S:
                    logger.warning("gateway did not answer a request, retrying", extra={"fields": {"why": str(away)}})
                asked_s = min(away.retry_after_s, _LONGEST_RETRY_AFTER_S)
                await self._sleep(max(asked_s, self._jitter(pause_s / 2, pause_s)))
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _call(self, method: str, path: str, body: bytes | None, deadline_s: float) -> bytes:
        if self._fenced is not None:
            raise EpochFenced(self._fenced)
        try:
            async with asyncio.timeout(deadline_s):
                answer = await self._pool.request(method, self._url + path, headers=self._headers, content=body)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            # A chained error would repeat the error text.
            raise Unreachable(f"{type(error).__name__}: {error}") from None
        if answer.status >= _REFUSALS:
            raise self._refusal(answer)
        return answer.content

    def _refusal(self, answer: httpcore.Response) -> Exception:
        try:
            problem = msgspec.json.decode(answer.content, type=RefusalProblem)
        except msgspec.DecodeError:
            problem = RefusalProblem(detail=answer.content[:200].decode(errors="replace"))
        detail = problem.detail or problem.title or "the gateway gave no reason"
        match answer.status:
            case 409 if problem.next_seq is not None:
                return LogBehind(problem.next_seq)
            case 410:
                self._fenced = detail
                return EpochFenced(detail)
            case status if status in (409, _TOO_SLOW, _TOO_MANY) or status >= _SERVER:
                return Unreachable(f"{status}: {detail}", retry_after_s=_retry_after(answer), status=status)
            case status:
                return Rejected(status, detail)


def _retry_after(answer: httpcore.Response) -> float:
    """Return the seconds of `Retry-After`, or 0 if the header is missing or a date, which the gateway never sends."""
    for name, value in answer.headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return float(value)
    return 0.0
