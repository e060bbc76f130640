"""Follows the logs of all sandboxes: sixteen durable consumers, one per partition."""

from collections.abc import Callable
from typing import Protocol

from muster.common.bus.connection import Bus
from muster.common.bus.consume import Consumer
from muster.common.bus.journal import Stored
from muster.common.contract import decode
from muster.common.contracts.sandbox_log import PARTITIONS, Frame, log_stream
from muster.common.faults import Fault, Transient
from muster.guardian.trajectories.store import TrajectoryStore

MOST_TRIES = 3
"""A fold is pure: what it fails on once it most likely fails on again."""


class LifeSignListener(Protocol):
    """Whoever takes a frame for a sign of life."""

    def frame(self, frame: Frame) -> None:
        """A frame was appended."""
        ...


class LogFollower:
    """Hands every frame to its sandbox's fold, in order."""

    def __init__(
        self, bus: Bus, trajectories: TrajectoryStore, listener: LifeSignListener, sure: Callable[[], bool]
    ) -> None:
        self._bus, self._trajectories, self._listener, self._sure = bus, trajectories, listener, sure
        self._last: dict[str, int] = {}
        self._run: dict[str, int] = {}
        self._unfoldable: dict[str, int] = {}

    def consumers(self) -> dict[str, Consumer]:
        """By their durable's name."""
        parts = [f"{number:02d}" for number in range(PARTITIONS)]
        return {
            f"guardian-{part}": Consumer(
                self._bus, log_stream(part), f"guardian-{part}", self._take, most_tries=MOST_TRIES
            )
            for part in parts
        }

    async def _take(self, stored: Stored) -> None:
        frame = decode(stored.body, Frame)
        self._still_leading()
        self._listener.frame(frame)
        await self._fold(frame, stored.position, self._unbroken_from(stored))
        self._still_leading()  # what is acknowledged here, a new leader would not be given

    async def _fold(self, frame: Frame, position: int, run: int) -> None:
        """A log that cannot be folded is tried a few times once, not with each of its frames: others wait behind it."""
        try:
            await self._trajectories.take(frame, position, run=run)
        except (Fault, Transient):
            raise
        except Exception as bug:
            if position > self._unfoldable.setdefault(frame.sandbox_id, position):
                text = f"{frame.sandbox_id} cannot be folded since {self._unfoldable[frame.sandbox_id]}: {bug!r}"
                raise Fault(text) from bug  # to the dead letters; a fold that can be made reads the whole log
            raise
        self._unfoldable.pop(frame.sandbox_id, None)

    def _unbroken_from(self, stored: Stored) -> int:
        """Where the row of deliveries that this one ends began; elsewhere, others may have been given to others."""
        part, position = stored.subject.split(".")[1], stored.position
        last = self._last.get(part)
        if last is None or position > last + 1:
            self._run[part] = position
        self._last[part] = max(position, last or 0)
        return self._run[part]

    def _still_leading(self) -> None:
        if not self._sure():
            raise Transient("not sure to lead any more", delay_s=1.0)
