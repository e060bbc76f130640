"""The deadlines until which sandboxes may be silent. All times are seconds of the caller's monotonic clock.

A heartbeat or an event moves the deadline of its sandbox. With many sandboxes this happens much more often than a
deadline passes, so a move must be cheap. The map gets the new deadline; the heap keeps its old entry until that entry
is the earliest, and then corrects the entry.
"""

import heapq

from muster.common.contracts.limits import MISSED_HEARTBEATS


class SilenceDeadline:
    """The deadline of one sandbox.

    `held` means that the sandbox got its TTL a second time, because most sandboxes were silent at the same time.
    """

    __slots__ = ("at_s", "held", "ttl_s")

    def __init__(self, at_s: float, ttl_s: float, *, held: bool = False) -> None:
        self.at_s, self.ttl_s, self.held = at_s, ttl_s, held


class SilenceDeadlines:
    """The deadlines of all sandboxes in a map, and a heap whose entries may be outdated. The map is authoritative."""

    def __init__(self) -> None:
        self._of: dict[str, SilenceDeadline] = {}
        self._heap: list[tuple[float, str]] = []

    def __contains__(self, sandbox_id: str) -> bool:
        return sandbox_id in self._of

    def __len__(self) -> int:
        return len(self._of)

    def expect_within(self, sandbox_id: str, now_s: float, ttl_s: float) -> None:
        """Note a sign of life of a sandbox at `now_s`: the next one must arrive within `ttl_s` seconds."""
        self._put(sandbox_id, SilenceDeadline(now_s + ttl_s, ttl_s))

    def ttl_s(self, sandbox_id: str) -> float:
        """Return the number of seconds for which a sandbox may be silent."""
        return self._of[sandbox_id].ttl_s

    def forget(self, sandbox_id: str) -> None:
        """Remove the deadline of a sandbox that will send no more heartbeats."""
        self._of.pop(sandbox_id, None)

    def restart_all(self, now_s: float) -> None:
        """Give every sandbox its full TTL from now on, because no sign of life could arrive until now."""
        for sandbox_id, deadline in list(self._of.items()):
            self._put(sandbox_id, SilenceDeadline(now_s + deadline.ttl_s, deadline.ttl_s))

    def earliest_s(self) -> float | None:
        """Return the earliest deadline, or None if there is none; correct outdated heap entries on the way."""
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
        """Return the sandboxes whose present deadline has passed."""
        return [sandbox_id for sandbox_id, deadline in self._of.items() if deadline.at_s <= now_s]

    def storm(self, now_s: float, *, share: float, at_least: int) -> bool:
        """Return whether so many sandboxes are silent that a failure of the network is the likely cause.

        A sandbox counts as silent here if less than one third of its TTL is left, so at least two heartbeats are
        missing. The result is True if there are at least `at_least` sandboxes, and more than the fraction `share` of
        them is silent.
        """
        silent = sum(1 for one in self._of.values() if one.at_s - now_s < one.ttl_s / MISSED_HEARTBEATS)
        return len(self._of) >= at_least and silent > share * len(self._of)

    def hold(self, sandbox_id: str, now_s: float) -> bool:
        """Give a sandbox its TTL once more; return False if it already got more time since its last sign of life."""
        known = self._of[sandbox_id]
        if known.held:
            return False
        self._put(sandbox_id, SilenceDeadline(now_s + known.ttl_s, known.ttl_s, held=True))
        return True

    def _put(self, sandbox_id: str, deadline: SilenceDeadline) -> None:
        new = sandbox_id not in self._of
        earlier = not new and deadline.at_s < self._of[sandbox_id].at_s
        self._of[sandbox_id] = deadline
        if new or earlier:  # If a deadline moves later, its heap entry stays outdated until `earliest_s` corrects it.
            heapq.heappush(self._heap, (deadline.at_s, sandbox_id))
