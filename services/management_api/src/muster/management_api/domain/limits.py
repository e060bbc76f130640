"""How often somebody may do something: what is remembered of him is one moment, when what he took has leaked away.

A generic cell rate algorithm, so a burst of the whole limit, then one at a time as it empties. (A window that
remembers each request costs the door more than all the rest of its work.)
"""

from hashlib import sha256
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
        if len(self._empty_at) >= MOST_REMEMBERED:
            self._empty_at = {name: empty_at for name, empty_at in self._empty_at.items() if empty_at > at_s}
        taken = self.look(name, at_s)
        if taken.allowed:
            name = name[:LONGEST_NAME]
            self._empty_at[name] = max(at_s, self._empty_at.get(name, at_s)) + self.window_s / self.most
        return taken

    def look(self, name: str, at_s: float) -> Taken:
        """What `take` would answer now; takes nothing."""
        each_s = self.window_s / self.most
        filled_s = max(0.0, self._empty_at.get(name[:LONGEST_NAME], at_s) - at_s)
        room = int((self.window_s - filled_s) / each_s + _ROUNDING)
        if room < 1:
            return Taken(False, self.most, self.window_s, 0, max(1, _up(filled_s + each_s - self.window_s)))
        return Taken(True, self.most, self.window_s, room - 1, _up(filled_s + each_s))


class Accepted:
    """The credentials that were accepted last, by their digests: `MOST_REMEMBERED` of them."""

    def __init__(self) -> None:
        self._digests: dict[bytes, None] = {}

    def __contains__(self, credential: bytes) -> bool:
        return sha256(credential).digest() in self._digests

    def add(self, credential: bytes) -> None:
        """Remember it as the last one; forget the one that was not accepted for the longest time."""
        digest = sha256(credential).digest()
        self._digests.pop(digest, None)
        self._digests[digest] = None
        if len(self._digests) > MOST_REMEMBERED:
            del self._digests[next(iter(self._digests))]

    def discard(self, credential: bytes) -> None:
        """Forget it: it was refused."""
        self._digests.pop(sha256(credential).digest(), None)


def _up(seconds: float) -> int:
    return -int(-seconds // 1)
