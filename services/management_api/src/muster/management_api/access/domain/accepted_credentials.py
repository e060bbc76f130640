"""Remembers which credentials were accepted recently, as digests in memory."""

from hashlib import sha256

MOST_REMEMBERED = 10_000


class AcceptedCredentials:
    """The digests of the last `MOST_REMEMBERED` credentials that were accepted."""

    def __init__(self) -> None:
        self._digests: dict[bytes, None] = {}

    def __contains__(self, credential: bytes) -> bool:
        return sha256(credential).digest() in self._digests

    def add(self, credential: bytes) -> None:
        """Add an accepted credential. If there are too many credentials, remove the least recently used credential."""
        digest = sha256(credential).digest()
        self._digests.pop(digest, None)
        self._digests[digest] = None
        if len(self._digests) > MOST_REMEMBERED:
            del self._digests[next(iter(self._digests))]

    def discard(self, credential: bytes) -> None:
        """Remove a refused credential, so that this credential no longer counts as accepted."""
        self._digests.pop(sha256(credential).digest(), None)
