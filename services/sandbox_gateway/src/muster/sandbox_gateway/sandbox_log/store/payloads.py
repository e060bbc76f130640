"""Keeps the whole bodies of events that are too large for a frame, in one object bucket of the deployment.

The log has the head, the tail, the size and the digest of such a body. The name of its object contains the sandbox's id
and the digest of the stored bytes, so no sandbox can refer to an object of another one, and the log proves what was
stored. Objects live as long as the logs: neither this process nor any other service may remove them.

The bucket is bounded for each sandbox and as a whole. A body that does not fit is not kept, and the event says why. The
gateway holds these bounds. A limit of the bucket's stream would be reserved on the disk of the NATS server, which would
refuse to make the bucket on a smaller disk.
"""

from collections.abc import Iterable, Mapping, Sequence
from mmap import mmap

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.objects import BrokenObject, ObjectBucket, ObjectRecord
from muster.common.contract import decode, encode
from muster.common.contracts.sandbox_log import PAYLOADS, ClippedBody, LoggedEvent, payload_name
from muster.common.contracts.worker_api import MAX_PAYLOAD_BYTES
from muster.common.faults import InvalidMessage, TooLarge, TooMany

MOST_IN_POST = 16
"""Most payloads that the events of one request may refer to, because each of them is looked up."""
_REDACTED = "redacted"
_FULL = 0.95
"""The share of the bucket that is filled at most.

Each chunk takes some bytes more in the stream, and several bodies may be stored at the same time.
"""


class NotKept(TooLarge):
    """A bound is reached, so the whole body is not kept. The text of this fault is stored in the event."""


class PayloadStore:
    """The whole bodies of the events of all sandboxes.

    `max_bytes` bounds the bucket, and `sandbox_max_bytes` bounds the bodies of one sandbox. With 0 nothing is kept.
    """

    def __init__(self, bus: Bus, *, max_bytes: int, sandbox_max_bytes: int) -> None:
        self._bucket = ObjectBucket(bus, PAYLOADS)
        self._max_bytes, self._sandbox_max_bytes = max_bytes, sandbox_max_bytes

    async def ensure(self) -> None:
        """Create the bucket if it does not exist."""
        await self._bucket.ensure()

    async def has(self, sandbox_id: str, sha256: str) -> bool:
        """Whether the body with this digest is stored for the sandbox."""
        return await self._bucket.find(payload_name(sandbox_id, sha256)) is not None

    async def check_room(self, sandbox_id: str, size: int) -> None:
        """Raise `NotKept` if a body of `size` bytes exceeds one of the bounds."""
        if size > MAX_PAYLOAD_BYTES:
            raise NotKept(f"the whole body was not kept: it exceeds {MAX_PAYLOAD_BYTES >> 20} MiB")
        if await self._bucket.size_below(sandbox_id) + size > self._sandbox_max_bytes:
            raise NotKept(
                "the whole body was not kept: the kept bodies of this sandbox would exceed "
                f"{self._sandbox_max_bytes} bytes (MUSTER_PAYLOADS_SANDBOX_MAX_BYTES)"
            )
        if await self._bucket.size() + size > self._max_bytes * _FULL:
            raise _bucket_full(self._max_bytes)

    async def keep(self, sandbox_id: str, body: bytes | mmap, sha256: str, *, redacted: bool) -> ClippedBody:
        """Store a body without secrets, unless it is stored already. Return the event body that replaces it.

        Raises `NotKept` if a bound is reached, and `Unavailable` or `TimedOut`. May be repeated.
        """
        name = payload_name(sandbox_id, sha256)
        if not await self.has(sandbox_id, sha256):
            await self.check_room(sandbox_id, len(body))
            try:
                await self._bucket.put(name, body, sha256=sha256, metadata={_REDACTED: "true" if redacted else "false"})
            except TooMany:
                raise _bucket_full(self._max_bytes) from None
        return ClippedBody.of(body, sha256=sha256, redacted=redacted)

    async def confirmed(self, sandbox_id: str, events: Sequence[LoggedEvent]) -> list[LoggedEvent]:
        """Return the events of a worker, after each reference to a payload was checked.

        The size, the digest and the redaction of a payload are those of the stored object, whatever the worker says.
        Raises `InvalidMessage` if this sandbox has not uploaded the payload.
        """
        referring = sum(event.payload is not None for event in events)
        if not referring:
            return list(events)
        if referring > MOST_IN_POST:
            raise TooLarge(f"the events of one request may have at most {MOST_IN_POST} payloads", field="$.events")
        return [
            event if event.payload is None else await self._confirmed(sandbox_id, event, f"$.events[{index}]")
            for index, event in enumerate(events)
        ]

    async def faults(self, sandbox_id: str, digests: Iterable[str]) -> Mapping[str, str]:
        """Read the payloads with these digests. Return the fault of each one that is missing or has other bytes."""
        found = dict[str, str]()
        for sha256 in digests:
            record = await self._bucket.find(payload_name(sandbox_id, sha256))
            if record is None:
                found[sha256] = "is missing"
                continue
            try:
                async for _ in self._bucket.read(record):
                    pass
            except BrokenObject:
                found[sha256] = "has other bytes than its digest says"
        return found

    async def _confirmed(self, sandbox_id: str, event: LoggedEvent, field: str) -> LoggedEvent:
        assert event.payload is not None
        record = await self._bucket.find(payload_name(sandbox_id, event.payload))
        if record is None:
            raise InvalidMessage(
                f"this sandbox has no payload {event.payload}; upload the whole body before its event",
                field=f"{field}.payload",
            )
        try:
            clipped = decode(bytes(event.body), ClippedBody)
        except InvalidMessage as error:
            raise InvalidMessage(
                f"the body of an event with a payload is its head and tail: {error}", field=f"{field}.body"
            ) from None
        return msgspec.structs.replace(event, body=msgspec.Raw(encode(_as_stored(clipped, record))))


def _as_stored(clipped: ClippedBody, record: ObjectRecord) -> ClippedBody:
    redacted = record.metadata.get(_REDACTED) == "true"
    return msgspec.structs.replace(clipped, size=record.size, sha256=record.sha256, redacted=redacted, why="")


def _bucket_full(max_bytes: int) -> NotKept:
    return NotKept(
        f"the whole body was not kept: the bucket of kept bodies has reached {max_bytes} bytes "
        "(MUSTER_PAYLOADS_MAX_BYTES)"
    )
