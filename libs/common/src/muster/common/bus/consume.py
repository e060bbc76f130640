"""Follows a stream in order through a durable consumer, and continues after a `kill -9` of the NATS server.

`nats-py`'s own `fetch` loses its pending requests when the server restarts, and is three times slower. This loop sends
pull requests as NATS's ADR-37 describes. Messages are handled one at a time in stream order, because handlers compute
states from the order of events. If a handler fails, it is called again with the same message. A message is acknowledged
after its handler has returned. So after a crash the message is delivered again, and handlers must be idempotent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from muster.common.bus.connection import Bus, Incoming
from muster.common.bus.deadletters import DeadLetters
from muster.common.bus.message_store import Stored
from muster.common.bus.streams import JetStreamRefusal, jetstream
from muster.common.contract import encode
from muster.common.faults import Fault, TimedOut, Transient, Unavailable

log = structlog.get_logger()

Handler = Callable[[Stored], Awaitable[None]]

BATCH = 200
PULL_EXPIRES_S = 10.0
IDLE_HEARTBEAT_S = 2.0
ACK_WAIT_S = 5.0
"""Short, so that the messages of a killed process are delivered again soon. Handlers skip messages that they know."""
LONGEST_RETRY_S = 30.0
MOST_TRIES = 6
MOST_PENDING = 10 * BATCH
REMEMBERED = 2 * MOST_PENDING
"""The number of handled messages that are remembered. At most as many can be delivered again as were pending."""

_Key = tuple[int, datetime]
"""The position and the time of a message. A stream that was created again counts positions from 1 again."""


class Consumer:
    """Calls a handler for each message of a stream, through the durable consumer `durable`.

    With `subject`, only messages of that subject are handled. `run` must run under `supervise`.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        durable: str,
        handler: Handler,
        *,
        subject: str = "",
        most_tries: int = MOST_TRIES,
        ack_wait_s: float = ACK_WAIT_S,
    ) -> None:
        self._bus, self._stream, self._durable, self._subject = bus, stream, durable, subject
        self._handler, self._most_tries, self._ack_wait_s = handler, most_tries, ack_wait_s
        self._dead_letters = DeadLetters(bus)
        self._queue: asyncio.Queue[tuple[Stored, str]] = asyncio.Queue()
        self._unfinished: dict[_Key, str] = {}
        self._done: dict[_Key, None] = {}
        self._pull_again = asyncio.Event()
        self._wanted = 0
        self._heard = 0.0

    async def run(self) -> None:
        """Handle messages until cancelled. Unhandled messages are delivered again, to this process or another one."""
        inbox = self._bus.inbox()
        subscription = await self._bus.subscribe(inbox, self._take)
        self._bus.on_reconnect(self._lost_requests)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_pulling(inbox))
                tasks.create_task(self._keep_handling())
                tasks.create_task(self._keep_in_progress())
        finally:
            await subscription.unsubscribe()

    async def _keep_pulling(self, inbox: str) -> None:
        self._wanted = 0
        await self._ensure_until_it_is_there()
        loop = asyncio.get_running_loop()
        while True:
            self._pull_again.clear()
            if self._wanted <= BATCH // 2 and self._queue.qsize() <= BATCH:
                await self._pull(inbox)
            try:
                async with asyncio.timeout(IDLE_HEARTBEAT_S * 2):
                    await self._pull_again.wait()
            except TimeoutError:
                if self._queue.empty() and loop.time() - self._heard > IDLE_HEARTBEAT_S * 2:
                    # The server's idle heartbeat did not arrive. Either a restarted server has lost the pull requests,
                    # or the consumer was deleted.
                    await self._ensure_until_it_is_there()
                    self._wanted = 0

    async def _pull(self, inbox: str) -> None:
        request = {
            "batch": BATCH,
            "expires": int(PULL_EXPIRES_S * 1e9),
            "idle_heartbeat": int(IDLE_HEARTBEAT_S * 1e9),
        }
        self._wanted += BATCH
        self._heard = asyncio.get_running_loop().time()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        await self._bus.send(subject, encode(request), reply=inbox)

    async def _take(self, message: Incoming) -> None:
        self._heard = asyncio.get_running_loop().time()
        status = (message.headers or {}).get("Status")
        if message.reply.startswith("$JS.ACK."):
            self._wanted -= 1
            await self._queue_once(_stored(message), message.reply)
        elif status not in (None, "100"):
            # The server ended a pull request (408 expired, 409 deleted or too many, 503 no leader) and sends no more
            # messages for the request.
            self._wanted = 0
        if self._wanted <= BATCH // 2 and status != "503":
            self._pull_again.set()

    async def _queue_once(self, stored: Stored, reply: str) -> None:
        """Queue a message once. If the server delivers a handled message again, acknowledge it again."""
        key = _key(stored)
        if key in self._done:  # The server delivered the message again, because the acknowledgement was lost or late.
            await self._bus.send(reply, b"+ACK")
        elif key not in self._unfinished:
            self._unfinished[key] = reply
            self._queue.put_nowait((stored, reply))

    def _lost_requests(self) -> None:
        self._wanted = 0
        self._pull_again.set()

    async def _keep_handling(self) -> None:
        while True:
            stored, reply = await self._queue.get()
            try:
                await self._handle(stored)
                self._remember(_key(stored))
                await self._bus.send(reply, b"+ACK")
            finally:  # If the acknowledgement fails, the server sends the message again, and it is queued again.
                self._unfinished.pop(_key(stored), None)
            if self._queue.qsize() <= BATCH:
                self._pull_again.set()

    async def _keep_in_progress(self) -> None:
        """Extend the acknowledgement deadline of queued messages, so that the server does not deliver them again."""
        waited = set[_Key]()
        while True:
            # The deadline of a message is extended in the second pass of this loop after its arrival. The pause is a
            # third of the deadline, so that the second pass is early enough.
            await asyncio.sleep(self._ack_wait_s / 3)
            if self._bus.connected.is_set():
                for reply in [reply for key, reply in self._unfinished.items() if key in waited]:
                    await self._bus.send(reply, b"+WPI")
            waited = set(self._unfinished)

    async def _handle(self, stored: Stored) -> None:
        tries = 0
        while True:
            tries += 1
            try:
                return await self._handler(stored)
            except (Transient, Unavailable, TimedOut) as error:
                delay_s = getattr(error, "delay_s", min(LONGEST_RETRY_S, 0.25 * 2**tries))
                log.warning(
                    "message handler failed, retrying",
                    stream=self._stream,
                    position=stored.position,
                    error=str(error),
                )
            except Fault as fault:
                return await self._bury(stored, str(fault))
            except Exception as error:
                log.exception(
                    "message handler raised an unexpected error",
                    stream=self._stream,
                    position=stored.position,
                    tries=tries,
                )
                if tries >= self._most_tries:
                    return await self._bury(stored, f"{type(error).__name__} {tries} times; see the log")
                delay_s = min(LONGEST_RETRY_S, 0.25 * 2**tries)
            await asyncio.sleep(delay_s)

    def _remember(self, key: _Key) -> None:
        self._done[key] = None
        if len(self._done) > REMEMBERED:
            del self._done[next(iter(self._done))]

    async def _bury(self, stored: Stored, why: str) -> None:
        log.error("message stored as dead letter", stream=self._stream, position=stored.position, why=why)
        await self._dead_letters.ensure()
        await self._dead_letters.bury(self._stream, self._durable, stored, why)

    async def _ensure_until_it_is_there(self) -> None:
        while True:
            try:
                await self._ensure()
            except (Unavailable, TimedOut, JetStreamRefusal) as error:
                log.warning(
                    "durable consumer could not be created",
                    stream=self._stream,
                    durable=self._durable,
                    error=str(error),
                )
                await asyncio.sleep(0.25)  # No message announces that the stream was created, so poll.
            else:
                return

    async def _ensure(self) -> None:
        config = {
            "durable_name": self._durable,
            "ack_policy": "explicit",
            "ack_wait": int(self._ack_wait_s * 1e9),
            "deliver_policy": "all",
            "max_ack_pending": MOST_PENDING,
        }
        if self._subject:
            config["filter_subject"] = self._subject
        body = {"stream_name": self._stream, "config": config}
        await jetstream(self._bus, f"CONSUMER.DURABLE.CREATE.{self._stream}.{self._durable}", body)


def _key(stored: Stored) -> _Key:
    return stored.position, stored.at


def _stored(message: Incoming) -> Stored:
    # The reply subject ends with <deliveries>.<stream seq>.<consumer seq>.<ns>.<pending>. Version 2 of the subject has
    # more tokens before these.
    parts = message.reply.split(".")
    position, nanoseconds = int(parts[-4]), int(parts[-2])
    return Stored(message.subject, position, datetime.fromtimestamp(nanoseconds / 1e9, UTC), message.data)
