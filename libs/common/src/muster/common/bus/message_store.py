"""Uses a JetStream stream as a log: store, append by compare-and-set, read the last message, replay, follow."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import msgspec
import structlog

from muster.common.bus.connection import REQUEST_DEADLINE_S, Bus, Incoming
from muster.common.bus.headers import EXPECTED_LAST, MESSAGE_ID
from muster.common.bus.streams import ApiError, JetStreamRefusal, StreamIdentity, jetstream, when_stored
from muster.common.contract import Message, decode, encode
from muster.common.faults import Conflict, Fault, TimedOut, TooMany, Unavailable

log = structlog.get_logger()

OUTRUN = 10071
NO_MESSAGE = 10037
FULL = frozenset({10047, 10077})
"""The server's error codes for a full stream: `max_bytes`, `max_msgs` or the limit per subject, with discard new."""
ONE_TRY_S = 2.0
REPLAY_BATCH = 256
REPLAY_BATCH_BYTES = 8 << 20
MOST_SUBJECTS = 1000
"""The most subjects in one batched direct get of last messages. The server's limit is 1,024."""
FOLLOW_RECHECK_S = 5.0
"""Seconds between reads without a wake-up, because a direct get may return old data on a cluster."""


class RevisionConflict(Conflict):
    """Another writer appended to the subject first. The caller must read the last message and decide again."""

    code = "outrun"


class Stored(msgspec.Struct, frozen=True):
    """A message stored in a stream. `position` is its stream sequence."""

    subject: str
    position: int
    at: datetime
    body: bytes


class _Ack(msgspec.Struct, frozen=True):
    error: ApiError | None = None
    seq: int = 0
    duplicate: bool = False


class _Raw(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    time: datetime
    data: str = ""


class _Got(msgspec.Struct, frozen=True):
    message: _Raw


class _SubjectCounts(msgspec.Struct, frozen=True):
    subjects: dict[str, int] | None = None


class _Subjects(msgspec.Struct, frozen=True):
    state: _SubjectCounts
    total: int = 0


class MessageStore:
    """Stores messages in streams and reads them, through one connection."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def store(
        self, message: Message, message_id: str | None = None, *, timeout_s: float = REQUEST_DEADLINE_S
    ) -> int:
        """Publish a message until JetStream acknowledges it, and return its position. Stores it once per `message_id`.

        Raises `Unavailable` or `TimedOut` if no acknowledgement arrives within `timeout_s` seconds. Then the message
        may be stored or not.
        """
        headers = self._bus.envelope.headers(message, message_id)
        return await self.store_raw(
            message.subject, encode(message), headers | {MESSAGE_ID: headers["ce-id"]}, timeout_s=timeout_s
        )

    async def store_raw(
        self, subject: str, body: bytes, headers: dict[str, str], *, timeout_s: float = REQUEST_DEADLINE_S
    ) -> int:
        """Store a message whose body and headers are already encoded. The headers must contain `Nats-Msg-Id`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            left = deadline - loop.time()
            try:
                return await self._publish(subject, body, headers, timeout_s=max(0.05, min(ONE_TRY_S, left)))
            except (Unavailable, TimedOut):
                if loop.time() + 0.1 >= deadline:
                    raise
                await asyncio.sleep(0.1)

    async def append(self, subject: str, body: bytes, *, last: int, timeout_s: float = ONE_TRY_S) -> int:
        """Append a message if `last` is the position of the subject's last message (0: none). Return the new position.

        Raises `RevisionConflict` if `last` is old and `TooMany` if the stream is full. Raises `TimedOut` or
        `Unavailable` if the outcome is unknown. Then the caller must read the subject's last message.
        """
        return await self._publish(subject, body, {EXPECTED_LAST: str(last)}, timeout_s=timeout_s)

    async def _publish(self, subject: str, body: bytes, headers: dict[str, str], *, timeout_s: float) -> int:
        answer = await self._bus.call(subject, body, headers=headers, timeout_s=timeout_s)
        ack = decode(answer.data, _Ack)
        if ack.error is None:
            return ack.seq
        if ack.error.err_code == OUTRUN:
            raise RevisionConflict(ack.error.description)
        if ack.error.err_code in FULL:
            raise TooMany(f"the stream that stores {subject} is full: {ack.error.description}")
        if ack.error.code == 503:  # noqa: PLR2004 - JetStream without a leader, or restarting
            raise Unavailable(ack.error.description)
        raise JetStreamRefusal(f"{subject}: {ack.error.description}", error=ack.error)

    async def tail(self, stream: str, subject: str) -> Stored | None:
        """Return the last message of `subject` from the stream's leader. A direct get could return an older one."""
        try:
            answer = await jetstream(self._bus, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        except JetStreamRefusal as refusal:
            if refusal.error.err_code == NO_MESSAGE:
                return None
            if refusal.error.code == 503:  # noqa: PLR2004
                raise Unavailable(str(refusal)) from None
            raise
        raw = decode(answer, _Got).message
        return Stored(raw.subject, raw.seq, raw.time, base64.b64decode(raw.data))

    async def replay(
        self, stream: str, subject: str, *, after: int = 0, batch: int = REPLAY_BATCH
    ) -> AsyncIterator[Stored]:
        """Yield all stored messages of `subject` after a position, in order. `subject` may contain wildcards."""
        # The server may end a batch early because of its size in bytes. So only an empty batch means that all messages
        # were read.
        while got := await self._batch(stream, {"batch": batch, "next_by_subj": subject, "seq": after + 1}):
            for stored in got:
                yield stored
            after = got[-1].position

    async def last_of_each(self, stream: str, subject: str) -> list[Stored]:
        """Return the last message of every subject that matches `subject`. The number of subjects is not limited."""
        found: list[Stored] = []
        names = await self._subjects(stream, subject)
        for first in range(0, len(names), MOST_SUBJECTS):
            some = names[first : first + MOST_SUBJECTS]
            found += await self._batch(stream, {"multi_last": some, "batch": MOST_SUBJECTS})
        return found

    async def _subjects(self, stream: str, matching: str) -> list[str]:
        names: list[str] = []
        while True:
            page = {"subjects_filter": matching, "offset": len(names)}
            listed = decode(await jetstream(self._bus, f"STREAM.INFO.{stream}", page), _Subjects)
            names += listed.state.subjects or {}
            if len(names) >= listed.total:
                return names

    async def follow(
        self,
        stream: str,
        subject: str,
        *,
        after: int = 0,
        recheck_s: float = FOLLOW_RECHECK_S,
        restarted: Callable[[], None] | None = None,
    ) -> AsyncIterator[Stored]:
        """Yield all messages of `subject` after a position, and then every new message, without end.

        Reads again after each outage. If NATS restarted with an empty store and the stream was created again, positions
        of the old stream are invalid. Then `restarted` is called, and the new stream is read from its first message.
        """
        identity = StreamIdentity(self._bus, stream)
        async with self._bus.woken_by(when_stored(subject)) as woken:
            while True:
                woken.clear()
                try:
                    if await identity.changed():
                        log.warning("stream was created again, reading from its start", stream=stream, subject=subject)
                        after = 0
                        if restarted is not None:
                            restarted()
                    async for stored in self.replay(stream, subject, after=after):
                        after = stored.position
                        yield stored
                except (Unavailable, TimedOut):
                    await asyncio.sleep(0.25)
                    continue
                try:
                    async with asyncio.timeout(recheck_s):
                        await woken.wait()
                except TimeoutError:
                    continue

    async def _batch(self, stream: str, query: dict[str, object]) -> list[Stored]:
        got: list[Stored] = []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def take(message: Incoming) -> None:
            headers = message.headers or {}
            status = headers.get("Status")
            if status is None:
                got.append(_direct(message, headers))
            elif done.done():
                pass
            elif status in ("204", "404"):  # The server has sent the last message of the batch, or the batch is empty.
                done.set_result(None)
            else:
                done.set_exception(_direct_failure(stream, status, headers.get("Description", "")))

        await self._bus.reachable()
        with self._bus.under_way():
            inbox = self._bus.inbox()
            subscription = await self._bus.subscribe(inbox, take)
            try:
                body = encode({**query, "max_bytes": REPLAY_BATCH_BYTES})
                await self._bus.send(f"$JS.API.DIRECT.GET.{stream}", body, reply=inbox)
                async with asyncio.timeout(REQUEST_DEADLINE_S):
                    await done
            except TimeoutError:
                raise TimedOut(f"replay of {stream} did not end within {REQUEST_DEADLINE_S:g} s") from None
            finally:
                await subscription.unsubscribe()
        return got


def _direct(message: Incoming, headers: dict[str, str]) -> Stored:
    at = datetime.fromisoformat(headers["Nats-Time-Stamp"])
    return Stored(headers["Nats-Subject"], int(headers["Nats-Sequence"]), at, message.data)


def _direct_failure(stream: str, status: str, description: str) -> Fault:
    if status == "503":
        return Unavailable(f"stream {stream} is not readable now (no leader); try again")
    return JetStreamRefusal(f"{stream}: {status} {description}")
