"""Until when each sandbox may be silent. Times are seconds of a monotonic clock the caller reads."""

import heapq

MISSES = 3
"""A time to live is three beat intervals (architecture §7)."""


class SilenceDeadline:
    """One sandbox's."""

    __slots__ = ("at_s", "held", "ttl_s")

    def __init__(self, at_s: float, ttl_s: float, *, held: bool = False) -> None:
        self.at_s, self.ttl_s, self.held = at_s, ttl_s, held


class SilenceDeadlines:
    """A map, and a heap over it whose entries may be out of date: the map decides."""

    def __init__(self) -> None:
        self._of: dict[str, SilenceDeadline] = {}
        self._heap: list[tuple[float, str]] = []

    def __contains__(self, sandbox_id: str) -> bool:
        return sandbox_id in self._of

    def __len__(self) -> int:
        return len(self._of)

    def expect_within(self, sandbox_id: str, now_s: float, ttl_s: float) -> None:
        """A sign of life: the next is due within `ttl_s`."""
        self._put(sandbox_id, SilenceDeadline(now_s + ttl_s, ttl_s))

    def ttl_s(self, sandbox_id: str) -> float:
        """How long it may be silent."""
        return self._of[sandbox_id].ttl_s

    def forget(self, sandbox_id: str) -> None:
        """Nothing is expected of it any more."""
        self._of.pop(sandbox_id, None)

    def restart_all(self, now_s: float) -> None:
        """Everybody gets a full time to live: nothing could be heard until now."""
        for sandbox_id, deadline in list(self._of.items()):
            self._put(sandbox_id, SilenceDeadline(now_s + deadline.ttl_s, deadline.ttl_s))

    def earliest_s(self) -> float | None:
        """Not before this can anything be due."""
        while self._heap:
            at_s, sandbox_id = self._heap[0]
            known = self._of.get(sandbox_id)
            if known is not None and known.at_s == at_s:
                return at_s
            heapq.heappop(self._heap)
            if known is not None and known.at_s > at_s:
                heapq.heappush(self._heap, (known.at_s, sandbox_id))
        return None

    def due(self, now_s: float) -> list[str]:
        """Who is silent beyond its time; stays so until heard, held or forgotten."""
        return [sandbox_id for sandbox_id, deadline in self._of.items() if deadline.at_s <= now_s]

    def storm(self, now_s: float, *, share: float, at_least: int) -> bool:
        """Whether so many have gone silent together that the path is the likelier cause.

        Silent are those with less than one beat interval left: they have missed two or more.
        """
        silent = sum(1 for one in self._of.values() if one.at_s - now_s < one.ttl_s / MISSES)
        return len(self._of) >= at_least and silent > share * len(self._of)

    def hold(self, sandbox_id: str, now_s: float) -> bool:
        """Give it one more time to live; False if it had that already."""
        known = self._of[sandbox_id]
        if known.held:
            return False
        self._put(sandbox_id, SilenceDeadline(now_s + known.ttl_s, known.ttl_s, held=True))
        return True

    def _put(self, sandbox_id: str, deadline: SilenceDeadline) -> None:
        new = sandbox_id not in self._of
        earlier = not new and deadline.at_s < self._of[sandbox_id].at_s
        self._of[sandbox_id] = deadline
        if new or earlier:
            heapq.heappush(self._heap, (deadline.at_s, sandbox_id))
