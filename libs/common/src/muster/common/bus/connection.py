"""One connection to NATS: request, publish, subscribe, and wake-ups."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

import msgspec
import structlog
from nats import errors as nats_errors
from nats.aio.client import Client

from muster.common.bus.connection_events import ConnectionEvents
from muster.common.bus.headers import ERROR, Envelope, Headers
from muster.common.bus.login import CredentialsSource, LastingClient, login_options, login_with, renewing
from muster.common.clock import Clock, utc_now
from muster.common.contract import Command, Message, decode, encode, reply_type
from muster.common.faults import Fault, TimedOut, Unavailable
from muster.common.ids import NewId, new_id
from muster.common.tls import TlsFiles

log = structlog.get_logger()

REQUEST_DEADLINE_S = 5.0
RECONNECT_WAIT_S: Any = 0.25
"""nats-py's annotation says int; it waits for any number of seconds."""
LONGEST_OUTAGE_WAIT_S = 2.0
"""Seconds. Without a connection a request is answered `Unavailable` after this time (I10)."""


class Incoming(Protocol):
    """A message that has arrived."""

    subject: str
    reply: str
    data: bytes

    @property
    def headers(self) -> dict[str, str] | None:
        """The headers; empty if there were none."""
        ...


class Subscription(Protocol):
    """An open subscription."""

    async def unsubscribe(self) -> None:
        """Stop at once; queued messages are dropped."""
        ...

    async def drain(self) -> None:
        """Stop the subscription, and return when the messages that had arrived are handled."""
        ...


OnMessage = Callable[[Any], Awaitable[None]]


class FaultBody(msgspec.Struct, frozen=True):
    """A fault as a message on the bus."""

    code: str
    status: int
    detail: str
    field: str | None = None


class Bus:
    """The connection of a service. Made by `open_bus`."""

    def __init__(self, client: Client, source: str, *, now: Clock, new_id: NewId) -> None:
        self._client = client
        self.source = source
        self.now, self.new_id = now, new_id
        self.envelope = Envelope(source, now=now, new_id=new_id)
        self.connected = asyncio.Event()
        self.reconnects = 0
        """How often the connection came back. Code that caches a server's state compares this number, and reads again.
        """
        self._on_reconnect: list[Callable[[], None]] = []
        self._under_way = 0
        self._nothing_under_way = asyncio.Event()

    async def request[R](self, command: Command[R], *, timeout_s: float = REQUEST_DEADLINE_S) -> R:
        """Send `command` to the one service that answers it, and return the reply.

        Raises the `Fault` of the reply; `Unavailable` if no service answers this subject or NATS is away; `TimedOut`.
        """
        answer = await self.call(
            command.subject, encode(command), headers=self.envelope.headers(command), timeout_s=timeout_s
        )
        if answer.headers and ERROR in answer.headers:
            fault = decode(answer.data, FaultBody)
            raise Fault.named(fault.code)(fault.detail, field=fault.field)
        return decode(answer.data, reply_type(type(command)))

    async def call(self, subject: str, body: bytes, *, headers: Headers | None = None, timeout_s: float) -> Incoming:
        """Send one raw request and return the reply. Raises `Unavailable` or `TimedOut`."""
        await self.reachable(min(timeout_s, LONGEST_OUTAGE_WAIT_S))
        try:
            with self.under_way():
                return await self._client.request(
                    subject, body, timeout=timeout_s, headers=dict(headers) if headers else None
                )
        except nats_errors.NoRespondersError:
            raise Unavailable(f"nobody answers {subject} right now; is its service running?") from None
        except (nats_errors.TimeoutError, TimeoutError):
            raise TimedOut(f"no answer on {subject} within {timeout_s:g} s") from None
        except nats_errors.Error as error:
            raise Unavailable(f"NATS refused a request on {subject}: {error}") from error

    async def publish(self, message: Message) -> None:
        """Publish a message to present subscribers; this alone stores nothing."""
        await self.send(message.subject, encode(message), headers=self.envelope.headers(message))

    async def send(self, subject: str, body: bytes, *, reply: str = "", headers: Headers | None = None) -> None:
        """Publish raw bytes."""
        await self._client.publish(subject, body, reply=reply, headers=dict(headers) if headers else None)

    async def subscribe(
        self, subject: str, on_message: OnMessage, *, queue: str = "", pending: int = 65_536
    ) -> Subscription:
        """Call `on_message` for each message, one at a time, until the subscription ends."""
        client: Any = self._client  # nats-py types `subscribe` only in part
        return await client.subscribe(subject, queue=queue, cb=on_message, pending_msgs_limit=pending)

    def inbox(self) -> str:
        """Return a new subject for replies to this connection."""
        return self._client.new_inbox()

    async def flush(self) -> None:
        """Return when the server knows every subscription made so far. Raises `Unavailable` or `TimedOut`."""
        try:
            await self._client.flush(timeout=int(REQUEST_DEADLINE_S))
        except (nats_errors.TimeoutError, TimeoutError):
            raise TimedOut(f"NATS says nothing for {REQUEST_DEADLINE_S:g} s; is it well?") from None
        except nats_errors.Error as error:
            raise Unavailable(f"no connection to NATS ({type(error).__name__}); is it running?") from None

    @asynccontextmanager
    async def woken_by(self, *subjects: str) -> AsyncGenerator[asyncio.Event]:
        """Open an event that is set whenever something is published on `subjects` or the connection comes back.

        Clear the event *before* reading what it announces: then nothing is missed. It also opens while NATS is away.
        """
        woken = asyncio.Event()

        async def wake(_: Incoming) -> None:
            woken.set()

        subscriptions: list[Subscription] = []
        self._on_reconnect.append(woken.set)
        try:
            for subject in subjects:  # a client that leaves while its feed opens must not leave a subscription behind
                subscriptions += [await self.subscribe(subject, wake)]
            if subscriptions:
                with suppress(Unavailable, TimedOut):
                    await self.flush()
            yield woken
        finally:
            self._on_reconnect.remove(woken.set)
            for subscription in subscriptions:
                await _quietly(subscription.unsubscribe())

    def on_reconnect(self, act: Callable[[], None]) -> None:
        """Call `act` each time the connection is back after an outage."""
        self._on_reconnect.append(act)

    @property
    def closed(self) -> bool:
        """Whether the connection is closed for good."""
        return self._client.is_closed

    def reconnected(self) -> None:
        """Handle the client's callback."""
        self.reconnects += 1
        self.connected.set()
        for act in list(self._on_reconnect):
            act()

    async def reachable(self, wait_s: float = LONGEST_OUTAGE_WAIT_S) -> None:
        """Wait for a connection that is neither lost nor being renewed. Raises `Unavailable` after `wait_s` seconds."""
        if self._client.is_connected and self.connected.is_set():
            return
        try:
            async with asyncio.timeout(wait_s):
                while not self.connected.is_set():  # the connection may be lost again by the time that this task wakes
                    await self.connected.wait()
        except TimeoutError:
            raise Unavailable("no connection to NATS; is it running?") from None

    @contextmanager
    def under_way(self) -> Generator[None]:
        """Hold off a renewal of the connection while a reply is awaited."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._nothing_under_way.set()

    async def renew(self) -> None:
        """Connect again with the present credentials. Subscriptions stay; pending requests are answered first."""
        self.connected.clear()  # requests from here on wait for the new connection
        self._nothing_under_way.clear()
        if self._under_way:
            with suppress(TimeoutError):
                async with asyncio.timeout(REQUEST_DEADLINE_S):
                    await self._nothing_under_way.wait()
        with suppress(Fault):
            await self.flush()  # read what the server has sent before the connection is closed
        await self._client.force_reconnect()
        await self.connected.wait()


async def _quietly(closing: Awaitable[None]) -> None:
    """Close a subscription; one that the server has closed already is no error."""
    try:
        await closing
    except nats_errors.Error:
        log.debug("subscription was already closed")


async def _let_go(client: Client) -> None:
    """Close a client without a connection; nats-py then writes to its last transport, which may be closed."""
    try:
        await client.close()
    except (OSError, TypeError) as error:  # a closed transport of asyncio has no method to write
        log.debug("nats connection was already closed", error=str(error))


def _why_not(events: ConnectionEvents, error: Exception, *, by_file: bool) -> str:
    """Return the error for a missing connection, with what to look at."""
    if events.refused:
        variable = "MUSTER_NATS_CREDENTIALS" if by_file else "the user and password in MUSTER_NATS_URL"
        return f"NATS refuses these credentials; check {variable}"
    if events.insecure:
        return f"no TLS with NATS ({events.insecure}); check MUSTER_NATS_TLS_CA_FILE"
    return f"cannot reach NATS ({type(error).__name__}); check MUSTER_NATS_URL"


@asynccontextmanager
async def open_bus(
    url: str,
    source: str,
    *,
    credentials: CredentialsSource | None = None,
    inbox_prefix: str | None = None,
    tls: TlsFiles | None = None,
    now: Clock = utc_now,
    new_id: NewId = new_id,
    wait_s: float = 10.0,
) -> AsyncGenerator[Bus]:
    """Connect as `source`; reconnects by itself while open, and drains at the end.

    `credentials` are read again at every connection, which is renewed before they expire; replies then arrive below
    `_INBOX.<their name>`. Without credentials the URL may hold a user and password. With `tls`, or a URL of `tls://`, a
    server without TLS is refused before anything is sent. Raises `Unavailable` if there is no server within `wait_s`
    seconds, or it refuses.
    """
    login = login_with(credentials) if credentials else None
    client = LastingClient()
    client.tls = tls
    bus = Bus(client, source, now=now, new_id=new_id)
    events = ConnectionEvents(bus)
    options: dict[str, Any] = login_options(login, inbox_prefix) if login else {}
    try:
        async with asyncio.timeout(wait_s) as waiting:
            events.on_insecure = lambda: waiting.reschedule(0)  # another try would find the same certificate
            await client.connect(
                url,
                name=source,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,
                ping_interval=5,
                pending_size=8 << 20,
                disconnected_cb=events.disconnected,
                reconnected_cb=events.reconnected,
                closed_cb=events.closed,
                error_cb=events.failed,
                **options,
            )
    except (TimeoutError, OSError, nats_errors.Error) as error:
        await _let_go(client)
        raise Unavailable(_why_not(events, error, by_file=login is not None)) from None
    finally:
        events.on_insecure = None
    bus.connected.set()
    try:
        async with renewing(bus, login):
            yield bus
    finally:
        events.closing = True
        await _quietly(client.drain())
        if not client.is_closed:  # the client was reconnecting: it would not drain, and would go on trying
            await _let_go(client)
