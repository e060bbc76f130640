"""Keepers started ahead of need: where a worker has crashed, the next one within the same walls finds its keeper there.

To start one takes about as long as whoever asks for that next worker needs to store that he does.
"""

import asyncio
from contextlib import suppress

from muster.shim.keeper_channel import KeeperChannel

HELD_S = 1.0


class PrewarmedKeepers:
    """At most one for the same command line, each for a moment only."""

    def __init__(self, held_s: float = HELD_S) -> None:
        self._held_s = held_s
        self._lines: dict[tuple[str, ...], KeeperChannel] = {}

    @property
    def pids(self) -> frozenset[int]:
        """Of those that wait."""
        return frozenset(line.pid for line in self._lines.values())

    def prepare(self, argv: list[str]) -> None:
        """Start one, unless one is waiting."""
        walls = tuple(argv)
        if walls in self._lines:
            return
        with suppress(OSError):  # then the next worker finds none
            line = self._lines[walls] = KeeperChannel(argv)
            asyncio.get_running_loop().call_later(self._held_s, self._let_go, walls, line)

    def take(self, argv: list[str]) -> KeeperChannel | None:
        """The one that waits for this command line."""
        return self._lines.pop(tuple(argv), None)

    def died(self, pid: int) -> None:
        """A child is dead; no worker shall be given to it, if it was one of these."""
        for walls, line in list(self._lines.items()):
            if line.pid == pid:
                self._let_go(walls, line)

    def close(self) -> None:
        """Let all go."""
        for walls, line in list(self._lines.items()):
            self._let_go(walls, line)

    def _let_go(self, walls: tuple[str, ...], line: KeeperChannel) -> None:
        if self._lines.get(walls) is line:
            del self._lines[walls]
            line.close()
