"""Remembers the credentials that were accepted last."""

from hashlib import sha256

MOST_REMEMBERED = 10_000


class AcceptedCredentials:
    """The digests of the last `MOST_REMEMBERED` credentials that were accepted."""

    def __init__(self) -> None:
        self._digests: dict[bytes, None] = {}

    def __contains__(self, credential: bytes) -> bool:
        return sha256(credential).digest() in self._digests

    def add(self, credential: bytes) -> None:
        """Remember a credential as the newest, and forget the one that was not used for the longest time."""
        digest = sha256(credential).digest()
        self._digests.pop(digest, None)
        self._digests[digest] = None
        if len(self._digests) > MOST_REMEMBERED:
            del self._digests[next(iter(self._digests))]

    def discard(self, credential: bytes) -> None:
        """Forget a credential that was refused."""
        self._digests.pop(sha256(credential).digest(), None)
