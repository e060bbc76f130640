"""One connection to NATS: sends requests, publishes and subscribes, and wakes loops when a subject changes."""

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
"""nats-py annotates an int, but accepts any number of seconds."""
LONGEST_OUTAGE_WAIT_S = 2.0
"""Seconds after which a request without a connection raises `Unavailable` (I10)."""


class Incoming(Protocol):
    """A message that was received from NATS."""

    subject: str
    reply: str
    data: bytes

    @property
    def headers(self) -> dict[str, str] | None:
        """Return the message's headers, or None."""
        ...


class Subscription(Protocol):
    """A subscription to a NATS subject."""

    async def unsubscribe(self) -> None:
        """Stop the subscription at once and drop its queued messages."""
        ...

    async def drain(self) -> None:
        """Stop the subscription. Return when all messages that have arrived are handled."""
        ...


OnMessage = Callable[[Any], Awaitable[None]]


class FaultBody(msgspec.Struct, frozen=True):
    """The body of an error reply."""

    code: str
    status: int
    detail: str
    field: str | None = None


class Bus:
    """A service's connection to NATS. `open_bus` creates it."""

    def __init__(self, client: Client, source: str, *, now: Clock, new_id: NewId) -> None:
        self._client = client
        self.source = source
        self.now, self.new_id = now, new_id
        self.envelope = Envelope(source, now=now, new_id=new_id)
        self.connected = asyncio.Event()
        self.reconnects = 0
        """The number of reconnections. Code that caches the server's state reads again when this number has changed."""
        self._on_reconnect: list[Callable[[], None]] = []
        self._under_way = 0
        self._nothing_under_way = asyncio.Event()

    async def request[R](self, command: Command[R], *, timeout_s: float = REQUEST_DEADLINE_S) -> R:
        """Send `command` to the service that handles its subject, and return the reply.

        Raises the `Fault` of the reply, `TimedOut`, or `Unavailable` if no service subscribes or NATS is unreachable.
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
            raise Unavailable(f"no service answers {subject}; check that its service runs") from None
        except (nats_errors.TimeoutError, TimeoutError):
            raise TimedOut(f"no answer on {subject} within {timeout_s:g} s") from None
        except nats_errors.Error as error:
            raise Unavailable(f"NATS refused a request on {subject}: {error}") from error

    async def publish(self, message: Message) -> None:
        """Publish a message to the current subscribers. Does not wait until JetStream has stored the message."""
        await self.send(message.subject, encode(message), headers=self.envelope.headers(message))

    async def send(self, subject: str, body: bytes, *, reply: str = "", headers: Headers | None = None) -> None:
        """Publish raw bytes to a subject."""
        await self._client.publish(subject, body, reply=reply, headers=dict(headers) if headers else None)

    async def subscribe(
        self, subject: str, on_message: OnMessage, *, queue: str = "", pending: int = 65_536
    ) -> Subscription:
        """Call `on_message` for each message of `subject`, one at a time, until the subscription ends."""
        client: Any = self._client  # nats-py annotates `subscribe` only in part.
        return await client.subscribe(subject, queue=queue, cb=on_message, pending_msgs_limit=pending)

    def inbox(self) -> str:
        """Return a new subject on which this connection receives replies."""
        return self._client.new_inbox()

    async def flush(self) -> None:
        """Return when the server has processed all earlier subscriptions. Raises `Unavailable` or `TimedOut`."""
        try:
            await self._client.flush(timeout=int(REQUEST_DEADLINE_S))
        except (nats_errors.TimeoutError, TimeoutError):
            raise TimedOut(f"NATS sent no PONG within {REQUEST_DEADLINE_S:g} s; check that NATS runs") from None
        except nats_errors.Error as error:
            raise Unavailable(f"no connection to NATS ({type(error).__name__}); check that NATS runs") from None

    @asynccontextmanager
    async def woken_by(self, *subjects: str) -> AsyncGenerator[asyncio.Event]:
        """Return an event that is set when a message is published on `subjects`, and after each reconnection.

        Clear the event *before* reading the changed state, so that no change is missed. May be called during an outage.
        """
        woken = asyncio.Event()

        async def wake(_: Incoming) -> None:
            woken.set()

        subscriptions: list[Subscription] = []
        self._on_reconnect.append(woken.set)
        try:
            for subject in subjects:  # If the caller is cancelled in this loop, the open subscriptions are closed.
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
        """Call `act` after each reconnection to NATS."""
        self._on_reconnect.append(act)

    @property
    def closed(self) -> bool:
        """Return whether the connection is closed permanently."""
        return self._client.is_closed

    def reconnected(self) -> None:
        """Wake the tasks that wait for a connection. `ConnectionEvents` calls this method after each reconnection."""
        self.reconnects += 1
        self.connected.set()
        for act in list(self._on_reconnect):
            act()

    async def reachable(self, wait_s: float = LONGEST_OUTAGE_WAIT_S) -> None:
        """Wait until the connection is usable. Raises `Unavailable` after `wait_s` seconds."""
        if self._client.is_connected and self.connected.is_set():
            return
        try:
            async with asyncio.timeout(wait_s):
                while not self.connected.is_set():  # The connection may be lost again before this task wakes.
                    await self.connected.wait()
        except TimeoutError:
            raise Unavailable("no connection to NATS; check that NATS runs") from None

    @contextmanager
    def under_way(self) -> Generator[None]:
        """Delay a renewal of the connection until this block's reply has arrived."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._nothing_under_way.set()

    async def renew(self) -> None:
        """Connect again with the latest credentials. Keeps subscriptions and waits for pending replies."""
        self.connected.clear()  # New requests now wait until the client has connected again.
        self._nothing_under_way.clear()
        if self._under_way:
            with suppress(TimeoutError):
                async with asyncio.timeout(REQUEST_DEADLINE_S):
                    await self._nothing_under_way.wait()
        with suppress(Fault):
            await self.flush()  # Read the messages that the server has already sent, before the connection closes.
        await self._client.force_reconnect()
        await self.connected.wait()


async def _quietly(closing: Awaitable[None]) -> None:
    """Close a subscription, also if the server has already closed the subscription."""
    try:
        await closing
    except nats_errors.Error:
        log.debug("subscription was already closed")


async def _let_go(client: Client) -> None:
    """Close a client that has lost its connection. Ignores nats-py's error for a transport that is already closed."""
    try:
        await client.close()
    except (OSError, TypeError) as error:  # nats-py raises these if it writes to a closed transport.
        log.debug("nats connection was already closed", error=str(error))


def _why_not(events: ConnectionEvents, error: Exception, *, by_file: bool) -> str:
    """Return the error text for a failed connection, with the setting that the operator must check."""
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
    """Connect to NATS as `source` and reconnect after each outage. The connection is drained at the end.

    Each connection reads `credentials` again, and is renewed before they expire. Replies then arrive below
    `_INBOX.<name in the credentials>`. Without credentials, the URL may contain a user and password. With `tls` or a
    `tls://` URL, the client sends nothing to a server without TLS. Raises `Unavailable` if no server accepts the client
    within `wait_s` seconds.
    """
    login = login_with(credentials) if credentials else None
    client = LastingClient()
    client.tls = tls
    bus = Bus(client, source, now=now, new_id=new_id)
    events = ConnectionEvents(bus)
    options: dict[str, Any] = login_options(login, inbox_prefix) if login else {}
    try:
        async with asyncio.timeout(wait_s) as waiting:
            # After a failed TLS handshake, stop at once. A retry would get the same certificate from the server.
            events.on_insecure = lambda: waiting.reschedule(0)
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
        # `drain` fails while the client reconnects. Without `close`, the client would try to reconnect without end.
        if not client.is_closed:
            await _let_go(client)
