"""The deadlines until which sandboxes may be silent. All times are seconds of the caller's monotonic clock.

A beat or an event moves the deadline of its sandbox. With many sandboxes this happens much more often than a deadline
passes, so moving one is cheap: the map gets the new deadline, and the heap keeps its old entry, which is corrected when
it comes to the top.
"""

import heapq

MISSES = 3
"""Missed beats after which a sandbox is silent: its TTL is three beat intervals (architecture §7)."""


class SilenceDeadline:
    """The deadline of one sandbox. `held`: it has got its TTL once more, because most sandboxes were silent at once."""

    __slots__ = ("at_s", "held", "ttl_s")

    def __init__(self, at_s: float, ttl_s: float, *, held: bool = False) -> None:
        self.at_s, self.ttl_s, self.held = at_s, ttl_s, held


class SilenceDeadlines:
    """The deadlines of all sandboxes: a map, and a heap whose entries may be out of date. The map decides."""

    def __init__(self) -> None:
        self._of: dict[str, SilenceDeadline] = {}
        self._heap: list[tuple[float, str]] = []

    def __contains__(self, sandbox_id: str) -> bool:
        return sandbox_id in self._of

    def __len__(self) -> int:
        return len(self._of)

    def expect_within(self, sandbox_id: str, now_s: float, ttl_s: float) -> None:
        """Note a sign of life at `now_s`: the next one is due within `ttl_s` seconds."""
        self._put(sandbox_id, SilenceDeadline(now_s + ttl_s, ttl_s))

    def ttl_s(self, sandbox_id: str) -> float:
        """Return the seconds for which a sandbox may be silent."""
        return self._of[sandbox_id].ttl_s

    def forget(self, sandbox_id: str) -> None:
        """Remove the deadline of a sandbox, because no beat is expected of it any more."""
        self._of.pop(sandbox_id, None)

    def restart_all(self, now_s: float) -> None:
        """Give every sandbox its full TTL from now on, because no sign of life could arrive until now."""
        for sandbox_id, deadline in list(self._of.items()):
            self._put(sandbox_id, SilenceDeadline(now_s + deadline.ttl_s, deadline.ttl_s))

    def earliest_s(self) -> float | None:
        """Return the earliest deadline; None if there is none. Corrects heap entries that are out of date."""
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
        """Return the sandboxes whose deadline has passed. They stay due until they are moved, held or removed."""
        return [sandbox_id for sandbox_id, deadline in self._of.items() if deadline.at_s <= now_s]

    def storm(self, now_s: float, *, share: float, at_least: int) -> bool:
        """Whether so many sandboxes are silent at once that a failure of the path is the more likely cause.

        A sandbox counts as silent here if less than one beat interval of its TTL is left: it has missed two beats or
        more. True if there are at least `at_least` sandboxes and more than the share `share` of them is silent.
        """
        silent = sum(1 for one in self._of.values() if one.at_s - now_s < one.ttl_s / MISSES)
        return len(self._of) >= at_least and silent > share * len(self._of)

    def hold(self, sandbox_id: str, now_s: float) -> bool:
        """Give a sandbox its TTL once more. Returns False if it had that already since its last sign of life."""
        known = self._of[sandbox_id]
        if known.held:
            return False
        self._put(sandbox_id, SilenceDeadline(now_s + known.ttl_s, known.ttl_s, held=True))
        return True

    def _put(self, sandbox_id: str, deadline: SilenceDeadline) -> None:
        new = sandbox_id not in self._of
        earlier = not new and deadline.at_s < self._of[sandbox_id].at_s
        self._of[sandbox_id] = deadline
        if new or earlier:  # a later deadline needs no entry: `earliest_s` corrects the old one
            heapq.heappush(self._heap, (deadline.at_s, sandbox_id))
