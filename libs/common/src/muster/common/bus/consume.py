"""The pull loop: follows a stream through a durable consumer, in order, and survives a server's `kill -9`.

`nats-py`'s own `fetch` loses its pending requests with the server and has a third of the speed (the loop is that of
ADR-37). Messages are handled one at a time in stream order, because our consumers fold logs; a handler that fails is
called again for the same message. A message is acknowledged after its handler has returned: a process that dies in
between gets it again, so handlers are idempotent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from muster.common.bus.connection import Bus, Incoming
from muster.common.bus.deadletters import DeadLetters
from muster.common.bus.journal import Stored
from muster.common.bus.streams import JetStreamRefusal, jetstream
from muster.common.contract import encode
from muster.common.faults import Fault, TimedOut, Transient, Unavailable

log = structlog.get_logger()

Handler = Callable[[Stored], Awaitable[None]]

BATCH = 200
PULL_EXPIRES_S = 10.0
IDLE_HEARTBEAT_S = 2.0
ACK_WAIT_S = 5.0
"""Short, so that messages which a killed process held are delivered again soon; handlers skip what they have done."""
LONGEST_RETRY_S = 30.0
MOST_TRIES = 6
MOST_PENDING = 10 * BATCH
REMEMBERED = 2 * MOST_PENDING
"""Messages that were handled and may be delivered again: no more than were pending when their acknowledgement was sent.
"""

_Key = tuple[int, datetime]
"""A position and its time: a stream that was created again counts from 1 again."""


class Consumer:
    """Follows `stream` (only `subject`, if given) as durable consumer `durable`. Must run under `supervise`."""

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
        """Follow until cancelled. Messages that were not handled are delivered again, to this or another process."""
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
                    # No heartbeat arrived when one was due: the requests died with a server, or the consumer did.
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
            # A request ended (408 expired, 409 deleted or too many, 503 no leader): no more messages come for it.
            self._wanted = 0
        if self._wanted <= BATCH // 2 and status != "503":
            self._pull_again.set()

    async def _queue_once(self, stored: Stored, reply: str) -> None:
        """Handle each message once: drop a copy of a queued message, acknowledge a copy of a handled one."""
        key = _key(stored)
        if key in self._done:  # its acknowledgement was lost, or crossed with this copy
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
            finally:  # after a failure here the message has to be delivered again
                self._unfinished.pop(_key(stored), None)
            if self._queue.qsize() <= BATCH:
                self._pull_again.set()

    async def _keep_in_progress(self) -> None:
        """Extend the deadline of queued messages, so that they are not delivered again meanwhile."""
        waited = set[_Key]()
        while True:
            await asyncio.sleep(
                self._ack_wait_s / 3
            )  # two of these fit into the deadline, also for a message that came just after one
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
                    "message handler failed, redelivery asked",
                    stream=self._stream,
                    position=stored.position,
                    error=str(error),
                )
            except Fault as fault:
                return await self._bury(stored, str(fault))
            except Exception as error:
                log.exception(
                    "message handler raised a bug", stream=self._stream, position=stored.position, tries=tries
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
        log.error("dead letter", stream=self._stream, position=stored.position, why=why)
        await self._dead_letters.ensure()
        await self._dead_letters.bury(self._stream, self._durable, stored, why)

    async def _ensure_until_it_is_there(self) -> None:
        while True:
            try:
                await self._ensure()
            except (Unavailable, TimedOut, JetStreamRefusal) as error:
                log.warning("consumer not ready", stream=self._stream, durable=self._durable, error=str(error))
                await asyncio.sleep(0.25)  # its owner creates the stream, which nothing announces yet
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
    # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<ns>.<pending>; v2 has more in front.
    parts = message.reply.split(".")
    position, nanoseconds = int(parts[-4]), int(parts[-2])
    return Stored(message.subject, position, datetime.fromtimestamp(nanoseconds / 1e9, UTC), message.data)
