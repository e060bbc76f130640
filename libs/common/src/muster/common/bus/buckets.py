"""Key-value buckets with compare-and-set, stored like NATS' own buckets (`KV_<bucket>`), so `nats kv` can read them."""

from collections.abc import AsyncIterator, Callable

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import StreamSpec, StreamTimes, ensure_stream, stream_times
from muster.common.contract import decode, encode, token


class BucketEntry[V](msgspec.Struct, frozen=True):
    """A value of a bucket, and the revision that a writer must name to replace the value."""

    key: str
    value: V
    revision: int


class Bucket[V]:
    """One bucket with values of type `V`. An empty value means that the key was deleted."""

    def __init__(self, bus: Bus, name: str, type_: type[V], *, max_age_s: float = 0.0) -> None:
        self._bus, self._message_store, self._name, self._type = bus, MessageStore(bus), name, type_
        self._max_age_s = max_age_s

    async def ensure(self) -> None:
        """Create the bucket if it does not exist."""
        await ensure_stream(
            self._bus,
            StreamSpec(
                name=self._stream,
                subjects=[f"$KV.{self._name}.>"],
                per_subject=1,
                discard_new=True,
                max_age_s=self._max_age_s,
            ),
        )

    async def times(self) -> StreamTimes:
        """Return when the bucket was created, or created again after it was lost, and when it was last written."""
        return await stream_times(self._bus, self._stream)

    async def get(self, key: str) -> BucketEntry[V] | None:
        """Return the value at `key` from the stream's leader, so that the value is not an old one."""
        stored = await self._message_store.tail(self._stream, self._subject(key))
        if stored is None or not stored.body:
            return None
        return BucketEntry(key, decode(stored.body, self._type), stored.position)

    async def create(self, key: str, value: V) -> int:
        """Store a value under a new key and return its revision.

        Raises `RevisionConflict` if the key already has a value.
        """
        stored = await self._message_store.tail(self._stream, self._subject(key))
        last = stored.position if stored is not None and not stored.body else 0
        return await self.update(key, value, revision=last)

    async def update(self, key: str, value: V, *, revision: int) -> int:
        """Replace the value at `revision` and return the new revision.

        Raises `RevisionConflict` if another writer replaced the value meanwhile.
        """
        return await self._message_store.append(self._subject(key), encode(value), last=revision)

    async def delete(self, key: str, *, revision: int) -> None:
        """Delete the value at `revision`. Raises `RevisionConflict` if another writer replaced the value meanwhile."""
        await self._message_store.append(self._subject(key), b"", last=revision)

    async def entries(self) -> list[BucketEntry[V]]:
        """Return every entry of the bucket."""
        found: dict[str, BucketEntry[V] | None] = {}
        async for stored in self._message_store.replay(self._stream, f"$KV.{self._name}.>"):
            key = stored.subject.removeprefix(f"$KV.{self._name}.")
            found[key] = BucketEntry(key, decode(stored.body, self._type), stored.position) if stored.body else None
        return [entry for entry in found.values() if entry is not None]

    async def changes(
        self, *, after: int = 0, restarted: Callable[[], None] | None = None
    ) -> AsyncIterator[tuple[str, V | None, int]]:
        """Yield every key with its value, and then each change of the bucket.

        Each item is the key, the value (None: the key was deleted) and the revision. If the bucket was created again,
        all earlier items are invalid. Then `restarted` is called, and the new bucket's items follow.
        """
        subject = f"$KV.{self._name}.>"
        async for stored in self._message_store.follow(self._stream, subject, after=after, restarted=restarted):
            key = stored.subject.removeprefix(f"$KV.{self._name}.")
            yield key, decode(stored.body, self._type) if stored.body else None, stored.position

    @property
    def _stream(self) -> str:
        return f"KV_{self._name}"

    def _subject(self, key: str) -> str:
        return f"$KV.{self._name}.{token(key, 'key')}"
