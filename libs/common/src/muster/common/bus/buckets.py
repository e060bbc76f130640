"""Key-value buckets with compare-and-set, laid out as NATS' own (`KV_<bucket>`), so that `nats kv` reads them too."""

from collections.abc import AsyncIterator, Callable

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal
from muster.common.bus.streams import StreamSpec, ensure_stream
from muster.common.contract import decode, encode, token


class BucketEntry[V](msgspec.Struct, frozen=True):
    """A value and the revision to compare with when replacing it."""

    key: str
    value: V
    revision: int


class Bucket[V]:
    """One bucket of `V`s. An empty value is a deleted key."""

    def __init__(self, bus: Bus, name: str, type_: type[V], *, max_age_s: float = 0.0) -> None:
        self._bus, self._journal, self._name, self._type = bus, Journal(bus), name, type_
        self._max_age_s = max_age_s

    async def ensure(self) -> None:
        """Make the bucket if it is not there."""
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

    async def get(self, key: str) -> BucketEntry[V] | None:
        """The value at `key`, as the leader has it."""
        stored = await self._journal.tail(self._stream, self._subject(key))
        if stored is None or not stored.body:
            return None
        return BucketEntry(key, decode(stored.body, self._type), stored.position)

    async def create(self, key: str, value: V) -> int:
        """Put a value where there is none. Raises `Outrun` when there is one. Returns the revision."""
        stored = await self._journal.tail(self._stream, self._subject(key))
        last = stored.position if stored is not None and not stored.body else 0
        return await self.update(key, value, revision=last)

    async def update(self, key: str, value: V, *, revision: int) -> int:
        """Replace what has `revision`. Raises `Outrun` when it was replaced meanwhile. Returns the new revision."""
        return await self._journal.append(self._subject(key), encode(value), last=revision)

    async def delete(self, key: str, *, revision: int) -> None:
        """Delete what has `revision`. Raises `Outrun`."""
        await self._journal.append(self._subject(key), b"", last=revision)

    async def entries(self) -> list[BucketEntry[V]]:
        """Everything in the bucket now."""
        found: dict[str, BucketEntry[V] | None] = {}
        async for stored in self._journal.replay(self._stream, f"$KV.{self._name}.>"):
            key = stored.subject.removeprefix(f"$KV.{self._name}.")
            found[key] = BucketEntry(key, decode(stored.body, self._type), stored.position) if stored.body else None
        return [entry for entry in found.values() if entry is not None]

    async def changes(
        self, *, after: int = 0, restarted: Callable[[], None] | None = None
    ) -> AsyncIterator[tuple[str, V | None, int]]:
        """Every key's value, then each change as it comes: key, value (None: deleted), revision.

        `restarted` is called when the bucket was made anew: all that was said before is void, and it begins again.
        """
        subject = f"$KV.{self._name}.>"
        async for stored in self._journal.follow(self._stream, subject, after=after, restarted=restarted):
            key = stored.subject.removeprefix(f"$KV.{self._name}.")
            yield key, decode(stored.body, self._type) if stored.body else None, stored.position

    @property
    def _stream(self) -> str:
        return f"KV_{self._name}"

    def _subject(self, key: str) -> str:
        return f"$KV.{self._name}.{token(key, 'key')}"
