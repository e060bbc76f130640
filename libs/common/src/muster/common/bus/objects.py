"""Buckets of large objects, stored like NATS' own object stores (`OBJ_<bucket>`), so `nats object` can read them.

An object is its chunks on one subject, and one record on another subject. The record is stored last, so an object
exists completely or not at all:

```
$O.<bucket>.C.<key>             chunks of `CHUNK_BYTES`, in order
$O.<bucket>.M.<base64 of name>  the record: size, number of chunks, digest
```
Objects are never replaced or removed, and an object's name must determine its content, for example by containing its
digest. So if a process dies while it stores an object, or if two processes store the same object at the same time, the
chunks that are stored already are the right ones: chunks are appended by compare-and-set, and `put` continues after the
last one. No writer needs the permission to delete.
"""

import base64
import hashlib
from collections.abc import AsyncGenerator, Mapping
from mmap import mmap

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore, RevisionConflict
from muster.common.bus.streams import StreamSpec, ensure_stream, jetstream, stream_state
from muster.common.clock import rfc3339
from muster.common.contract import decode, encode
from muster.common.faults import Fault

CHUNK_BYTES = 128 << 10
"""The bytes of a chunk. A half stored object could not be continued by a release with another number."""
_READ_CHUNKS = 8
"""Chunks that a reader holds in memory."""
_DIGEST = "SHA-256="


class ObjectOptions(msgspec.Struct, frozen=True):
    """The size of an object's chunks, as NATS' clients write it."""

    max_chunk_size: int = CHUNK_BYTES


class ObjectRecord(msgspec.Struct, frozen=True):
    """The record of an object, with the fields of NATS' own object stores. `nuid` is the end of the chunks' subject."""

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int
    digest: str
    mtime: str = ""
    options: ObjectOptions = ObjectOptions()
    metadata: dict[str, str] = {}

    @property
    def sha256(self) -> str:
        """The SHA-256 digest of the object, in hexadecimal digits."""
        return base64.urlsafe_b64decode(self.digest.removeprefix(_DIGEST)).hex()


class BrokenObject(Fault):
    """The stored bytes of an object are not those of its record."""

    status, code = 500, "broken_object"


class _ChunkCounts(msgspec.Struct, frozen=True):
    subjects: dict[str, int] | None = None


class _StreamSubjects(msgspec.Struct, frozen=True):
    state: _ChunkCounts
    total: int = 0


class ObjectBucket:
    """One bucket of objects. `max_bytes` is the size at which the server refuses more; -1 sets no limit."""

    def __init__(self, bus: Bus, name: str, *, max_bytes: int = -1) -> None:
        self._bus, self._message_store, self._name, self._max_bytes = bus, MessageStore(bus), name, max_bytes
        self._stream = f"OBJ_{name}"

    async def ensure(self) -> None:
        """Create the bucket if it does not exist."""
        subjects = [f"$O.{self._name}.C.>", f"$O.{self._name}.M.>"]
        await ensure_stream(
            self._bus,
            StreamSpec(name=self._stream, subjects=subjects, max_bytes=self._max_bytes, discard_new=True),
        )

    async def find(self, name: str) -> ObjectRecord | None:
        """Return the record of an object, or None if there is no complete object with this name."""
        stored = await self._message_store.tail(self._stream, self._record_subject(name))
        return None if stored is None else decode(stored.body, ObjectRecord)

    async def put(
        self, name: str, body: bytes | mmap, *, sha256: str, metadata: Mapping[str, str] | None = None
    ) -> ObjectRecord:
        """Store an object, unless it is stored already, and return its record.

        `name` must determine the content, and `sha256` must be the digest of `body`. May be repeated after each error.
        Raises `TooMany` if the bucket is full, and `Unavailable` or `TimedOut` if NATS does not acknowledge a chunk.
        """
        if (found := await self.find(name)) is not None:
            return found
        count = -(-len(body) // CHUNK_BYTES)
        subject = self._chunks_subject(_key(name))
        index, last = await self._stored_chunks(subject)
        while index < count:
            piece = bytes(body[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
            try:
                last = await self._message_store.append(subject, piece, last=last)
            except RevisionConflict:  # another process stores the same object
                index, last = await self._stored_chunks(subject)
            else:
                index += 1
        record = ObjectRecord(
            name=name,
            bucket=self._name,
            nuid=_key(name),
            size=len(body),
            chunks=count,
            digest=_DIGEST + base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode(),
            mtime=rfc3339(self._bus.now()),
            metadata=dict(metadata or {}),
        )
        try:
            await self._message_store.append(self._record_subject(name), encode(record), last=0)
        except RevisionConflict:
            return await self.find(name) or record
        return record

    async def read(self, record: ObjectRecord) -> AsyncGenerator[bytes]:
        """Yield the content of an object. Raises `BrokenObject` before the last piece if the content is wrong."""
        summed, size, held = hashlib.sha256(), 0, b""
        subject = self._chunks_subject(record.nuid)
        async for chunk in self._message_store.replay(self._stream, subject, batch=_READ_CHUNKS):
            if held:
                yield held
            held = chunk.body
            summed.update(held)
            size += len(held)
            if size >= record.size:
                break
        if size != record.size or summed.hexdigest() != record.sha256:
            raise BrokenObject(f"the stored object {record.name} has {size} bytes that do not match its digest")
        if held:
            yield held

    async def size(self) -> int:
        """Return the bytes that the bucket takes in its stream."""
        return (await stream_state(self._bus, self._stream)).bytes

    async def size_below(self, prefix: str) -> int:
        """Return the most bytes that the objects with names `<prefix>/…` have, with those that are not complete."""
        return CHUNK_BYTES * sum((await self._counts(self._chunks_subject(f"{prefix}.*"))).values())

    async def _stored_chunks(self, subject: str) -> tuple[int, int]:
        """Return the number of stored chunks of an object, and the position of the last one."""
        # The position is read first: if another process appends between the reads, the position is old, and the
        # next append conflicts instead of storing a chunk twice.
        stored = await self._message_store.tail(self._stream, subject)
        if stored is None:
            return 0, 0
        return (await self._counts(subject)).get(subject, 0), stored.position

    async def _counts(self, matching: str) -> dict[str, int]:
        """Return the number of messages of each subject."""
        counts = dict[str, int]()
        while True:
            page = {"subjects_filter": matching, "offset": len(counts)}
            listed = decode(await jetstream(self._bus, f"STREAM.INFO.{self._stream}", page), _StreamSubjects)
            found = listed.state.subjects or {}
            counts |= found
            if not found or len(counts) >= listed.total:
                return counts

    def _chunks_subject(self, key: str) -> str:
        return f"$O.{self._name}.C.{key}"

    def _record_subject(self, name: str) -> str:
        return f"$O.{self._name}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def _key(name: str) -> str:
    """Return the last tokens of the subject of an object's chunks: `a/b` becomes `a.b`, so that `a.*` finds it."""
    return name.replace("/", ".")
