"""A service on NATS: typed handlers, bounded concurrency, a stop without lost requests, and replies to `$SRV.*`.

Each endpoint has its own slots. So slow requests (an exec, a long poll) cannot use up the slots of urgent ones (a
fence, a stop). A service that stops accepts no new requests and finishes the accepted ones. Requests that are
unfinished after the drain time are ended and answered with `Unavailable`.

`nats.micro` is not used. `nats.micro` runs one request at a time for each endpoint, sends `repr(error)` to the client,
and drops queued requests at stop (docs/decisions/0003).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self

import structlog

from muster.common.bus.command_audit import CommandAudit, action_of, is_command
from muster.common.bus.connection import REQUEST_DEADLINE_S, Bus, FaultBody, Incoming, Subscription
from muster.common.bus.headers import ERROR, ERROR_STATUS, TRACE
from muster.common.contract import Answered, decode, encode, schema, wildcard
from muster.common.faults import Fault, TimedOut, TooLarge, Transient, Unavailable
from muster.common.trace import continue_trace

log = structlog.get_logger()

VERSION = "0.1.0"
SLOTS = 64
"""The number of requests that one endpoint handles at the same time. Further requests wait in its queue."""
DRAIN_S = 10.0
MAX_REPLY_BYTES = 4 << 20
"""The `max_payload` of NATS in a Muster deployment."""


class Endpoint:
    """One request type of a service, with its handler and its statistics."""

    def __init__(
        self,
        contract: Any,  # noqa: ANN401 - Answered is a protocol over classes
        handler: Callable[[Any], Awaitable[object]],
        deadline_s: float,
        slots: int,
    ) -> None:
        self.contract, self.handler, self.deadline_s = contract, handler, deadline_s
        self.slots = asyncio.Semaphore(slots)
        self.requests = self.errors = self.nanoseconds = 0
        self.last_error = ""

    def describe(self) -> dict[str, Any]:
        """Return the description of this endpoint for `$SRV.INFO`."""
        return {
            "name": self.contract.__name__,
            "subject": wildcard(self.contract.SUBJECT),
            "metadata": {"schema": encode(schema(self.contract)).decode()},
        }

    def stats(self) -> dict[str, Any]:
        """Return the statistics of this endpoint for `$SRV.STATS`."""
        return {
            "name": self.contract.__name__,
            "subject": wildcard(self.contract.SUBJECT),
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": self.nanoseconds,
            "average_processing_time": self.nanoseconds // max(1, self.requests),
        }


class Service:
    """Handles requests from NATS while it is open.

    `async with` returns when the service is ready. At the end it waits up to `drain_s` seconds for running requests.
    """

    def __init__(
        self,
        name: str,
        bus: Bus,
        *,
        concurrency: int = SLOTS,
        drain_s: float = DRAIN_S,
        command_audit: CommandAudit | None = None,
    ) -> None:
        self._name, self._bus, self._command_audit = name, bus, command_audit
        self._concurrency, self._drain_s = concurrency, drain_s
        self._endpoints: list[Endpoint] = []
        self._in_flight = asyncio.TaskGroup()
        self._running: set[asyncio.Timeout] = set()
        self._ended = False
        self._subscriptions: list[Subscription] = []
        self._about: list[Subscription] = []
        self._id = bus.new_id("req").removeprefix("req_")
        self._started = bus.now()

    def handles[C, R](
        self,
        contract: Answered[C, R],
        handler: Callable[[C], Awaitable[R]],
        *,
        deadline_s: float = REQUEST_DEADLINE_S,
    ) -> None:
        """Handle requests of type `contract` with `handler`, which must return within `deadline_s` seconds."""
        self._endpoints.append(Endpoint(contract, handler, deadline_s, self._concurrency))

    async def __aenter__(self) -> Self:
        await self._in_flight.__aenter__()
        for endpoint in self._endpoints:
            subject = wildcard(endpoint.contract.SUBJECT)
            accept = partial(self._accept, endpoint)
            self._subscriptions.append(await self._bus.subscribe(subject, accept, queue=self._name))
        for verb, answer in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            about = partial(self._tell_about, answer)
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{self._name}", f"$SRV.{verb}.{self._name}.{self._id}"):
                self._about.append(await self._bus.subscribe(subject, about))
        await self._bus.flush()  # After the flush, the server knows all endpoints, so the service is ready.
        return self

    async def __aexit__(self, *_: object) -> None:
        late = asyncio.get_running_loop().call_later(self._drain_s, self._end_requests)
        try:
            for subscription in self._about:
                await subscription.unsubscribe()
            await asyncio.gather(*(subscription.drain() for subscription in self._subscriptions))
            await self._in_flight.__aexit__(None, None, None)
        finally:
            late.cancel()

    def _end_requests(self) -> None:
        """End the running handlers. Requests that wait for a slot are refused when they get the slot."""
        self._ended = True
        log.warning("unfinished requests ended after the drain time", service=self._name, requests=len(self._running))
        now = asyncio.get_running_loop().time()
        for handling in self._running:
            if not handling.expired():
                handling.reschedule(now)

    async def _accept(self, endpoint: Endpoint, request: Incoming) -> None:
        slots = self._slots_for(endpoint, request)
        await slots.acquire()
        self._in_flight.create_task(self._answer(endpoint, request, slots))

    def _slots_for(self, endpoint: Endpoint, request: Incoming) -> asyncio.Semaphore:
        """Return the semaphore that limits how many requests of this endpoint run at the same time."""
        del request
        return endpoint.slots

    async def _answer(self, endpoint: Endpoint, request: Incoming, slots: asyncio.Semaphore) -> None:
        # This function must not raise, because an error in the TaskGroup would cancel all other requests.
        began = time.perf_counter_ns()
        endpoint.requests += 1
        try:
            # Each request runs in its own task and context, so the bound log variables end with the request.
            continue_trace((request.headers or {}).get(TRACE))
            structlog.contextvars.bind_contextvars(subject=request.subject)
            body, refusal = await self._handle(endpoint, request)
            await self._reply(request, body, refusal)
            if self._command_audit is not None and is_command(endpoint.contract.SUBJECT):
                self._tell(self._command_audit, endpoint, request, body, refusal)
        except Exception:
            log.exception("reply could not be sent", subject=request.subject)
        finally:
            endpoint.nanoseconds += time.perf_counter_ns() - began
            slots.release()

    async def _handle(self, endpoint: Endpoint, request: Incoming) -> tuple[bytes, dict[str, str] | None]:
        try:
            reply = await self._run(endpoint, request)
            body = encode(reply)
            if len(body) > MAX_REPLY_BYTES:
                raise TooLarge(f"the reply has {len(body)} bytes; request fewer items at once")  # noqa: TRY301 - one path for all refusals
        except Exception as error:
            fault = Fault.of(error)
            if not isinstance(error, Fault | Transient):
                log.exception("request handler raised an unexpected error")
        else:
            return body, None
        endpoint.errors += 1
        endpoint.last_error = fault.code
        said = FaultBody(code=fault.code, status=fault.status, detail=str(fault), field=fault.field)
        return encode(said), {ERROR: fault.code, ERROR_STATUS: str(fault.status)}

    async def _run(self, endpoint: Endpoint, request: Incoming) -> object:
        name = endpoint.contract.__name__
        stopping = Unavailable(f"{self._name} is stopping and did not finish {name}; ask again")
        if self._ended:
            raise stopping
        handling = asyncio.timeout(endpoint.deadline_s)
        try:
            async with handling:
                self._running.add(handling)
                return await endpoint.handler(decode(request.data, endpoint.contract))
        except TimeoutError:
            if self._ended:
                raise stopping from None
            raise TimedOut(f"{name} took longer than {endpoint.deadline_s:g} s") from None
        finally:
            self._running.discard(handling)

    def _tell(
        self,
        command_audit: CommandAudit,
        endpoint: Endpoint,
        request: Incoming,
        body: bytes,
        refusal: dict[str, str] | None,
    ) -> None:
        """Write the outcome of a command to the audit."""
        del body  # A subclass that overrides this method may read the outcome from `body`.
        command_audit.record(request, action_of(endpoint.contract), refusal)

    async def _reply(self, request: Incoming, body: bytes, headers: dict[str, str] | None) -> None:
        # A request without an inbox expects no reply. A reply on another subject would be published with this service's
        # permissions.
        if request.reply.startswith("_INBOX."):
            await self._bus.send(request.reply, body, headers=headers)

    async def _tell_about(self, answer: Callable[[], dict[str, Any]], request: Incoming) -> None:
        await self._reply(request, encode(self._identity() | answer()), None)

    def _identity(self) -> dict[str, Any]:
        return {"name": self._name, "id": self._id, "version": VERSION, "metadata": {}}

    def _ping(self) -> dict[str, Any]:
        return {"type": "io.nats.micro.v1.ping_response"}

    def _info(self) -> dict[str, Any]:
        described = [endpoint.describe() for endpoint in self._endpoints]
        return {"type": "io.nats.micro.v1.info_response", "description": self._name, "endpoints": described}

    def _stats(self) -> dict[str, Any]:
        counted = [endpoint.stats() for endpoint in self._endpoints]
        return {"type": "io.nats.micro.v1.stats_response", "started": self._started, "endpoints": counted}
