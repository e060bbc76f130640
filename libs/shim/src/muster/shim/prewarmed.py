"""Starts keepers ahead of need, so that a crashed worker is replaced sooner.

After a crash, the client first stores the next launch and then sends it. Meanwhile a keeper is started here with the
same command line, and the launch uses it. If no launch comes within a second, the keeper ends.
"""

import asyncio
from contextlib import suppress

from muster.shim.keeper_channel import KeeperChannel

HELD_S = 1.0
"""Seconds that a keeper waits for a worker."""


class PrewarmedKeepers:
    """The keepers that wait for a worker: at most one per command line, each for `held_s` seconds."""

    def __init__(self, held_s: float = HELD_S) -> None:
        self._held_s = held_s
        self._channels: dict[tuple[str, ...], KeeperChannel] = {}

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the waiting keepers."""
        return frozenset(channel.pid for channel in self._channels.values())

    def prepare(self, argv: list[str]) -> None:
        """Start a keeper for this command line, unless one is waiting."""
        key = tuple(argv)
        if key in self._channels:
            return
        with suppress(OSError):  # without a prewarmed keeper, the next launch starts its own
            channel = self._channels[key] = KeeperChannel(argv)
            asyncio.get_running_loop().call_later(self._held_s, self._discard, key, channel)

    def take(self, argv: list[str]) -> KeeperChannel | None:
        """Return the keeper that waits for this command line, or None."""
        return self._channels.pop(tuple(argv), None)

    def discard_dead(self, pid: int) -> None:
        """Forget the keeper with this pid, which has died."""
        for key, channel in list(self._channels.items()):
            if channel.pid == pid:
                self._discard(key, channel)

    def close(self) -> None:
        """End all waiting keepers."""
        for key, channel in list(self._channels.items()):
            self._discard(key, channel)

    def _discard(self, key: tuple[str, ...], channel: KeeperChannel) -> None:
        if self._channels.get(key) is channel:
            del self._channels[key]
            channel.close()
