"""The ids of a log's events, from which the gateway sees which events of a request the log does not have."""

import hashlib
from collections.abc import Iterable, Sequence

from muster.common.contracts.sandbox_log import LoggedEvent


class KnownEventIds:
    """The hashes of the ids of a log's events up to a position. A hash takes a third of the memory of an id."""

    def __init__(self) -> None:
        self.position = 0
        self._hashes = set[int]()

    def add(self, event_ids: Iterable[str]) -> None:
        """Add ids of events that the log has."""
        self._hashes.update(map(_hashed, event_ids))

    def missing(self, events: Sequence[LoggedEvent]) -> list[LoggedEvent]:
        """Return the events with an id that is not known, each id once. The ids stay unknown until `add` is called.

        Takes time for the given events only, also if millions of ids are known.
        """
        new = dict[int, LoggedEvent]()
        for event in events:
            hashed = _hashed(event.event_id)
            if hashed not in self._hashes:
                new.setdefault(hashed, event)
        return list(new.values())

    def forget(self) -> None:
        """Forget all ids, because the log was lost."""
        self.position, self._hashes = 0, set[int]()


def _hashed(event_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(event_id.encode(errors="replace"), digest_size=8).digest())
