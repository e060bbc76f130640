"""How often somebody may do something: what is remembered of him is one moment, when what he took has leaked away.

A generic cell rate algorithm, so a burst of the whole limit, then one at a time as it empties. (A window that
remembers each request costs the door more than all the rest of its work.)
"""

from typing import NamedTuple

LONGEST_NAME = 200
MOST_REMEMBERED = 10_000
_ROUNDING = 1e-6


class Taken(NamedTuple):
    """Whether one more was allowed, and what is left."""

    allowed: bool
    limit: int
    window_s: int
    remaining: int
    reset_s: int
    """Seconds until one more is allowed, or until all of it is there again."""


class Limit:
    """`most` within `window_s` seconds, for each name apart."""

    def __init__(self, most: int, window_s: int) -> None:
        self.most, self.window_s = most, window_s
        self._empty_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._empty_at)

    def take(self, name: str, at_s: float) -> Taken:
        """One more of `name`'s, at `at_s` (any monotonic clock)."""
        name, each_s = name[:LONGEST_NAME], self.window_s / self.most
        if len(self._empty_at) >= MOST_REMEMBERED:
            self._empty_at = {name: empty_at for name, empty_at in self._empty_at.items() if empty_at > at_s}
        filled_s = max(0.0, self._empty_at.get(name, at_s) - at_s)
        room = int((self.window_s - filled_s) / each_s + _ROUNDING)
        if room < 1:
            return Taken(False, self.most, self.window_s, 0, max(1, _up(filled_s + each_s - self.window_s)))
        self._empty_at[name] = at_s + filled_s + each_s
        return Taken(True, self.most, self.window_s, room - 1, _up(filled_s + each_s))


def _up(seconds: float) -> int:
    return -int(-seconds // 1)
