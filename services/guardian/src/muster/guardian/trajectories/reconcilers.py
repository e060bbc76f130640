"""Follows the logs of all sandboxes, with sixteen durable consumers, one for each partition.

A frame is acknowledged after it was folded and its decisions were recorded, and only while this process surely leads.
If the process dies before that, JetStream delivers the frame again, to the next leader, and a frame that is folded
already changes nothing.

A durable consumer delivers a frame once. A frame that a stopped leader received and has not acknowledged is delivered
again only later, so a new leader may see a gap. Therefore each frame comes with the position where the unbroken row
of deliveries to this process began (`run`): if the fold is behind that position, it reads the missing frames from the
log.
"""

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
"""Deliveries of a frame before it is a dead letter. Few, because a fold is pure and most likely fails again."""


class LifeSignListener(Protocol):
    """Takes each frame as a sign of life of its sandbox."""

    def frame(self, frame: Frame) -> None:
        """Note a frame that was appended to a log."""
        ...


class LogFollower:
    """Passes every frame to the fold of its sandbox, in order, while `surely_leading` returns True."""

    def __init__(
        self, bus: Bus, trajectories: TrajectoryStore, listener: LifeSignListener, surely_leading: Callable[[], bool]
    ) -> None:
        self._bus, self._trajectories = bus, trajectories
        self._listener, self._surely_leading = listener, surely_leading
        self._last: dict[str, int] = {}
        self._run: dict[str, int] = {}
        self._unfoldable: dict[str, int] = {}

    def consumers(self) -> dict[str, Consumer]:
        """Return the consumers of all partitions, by the names of their durables."""
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
        self._still_leading()  # a frame that is acknowledged after this is not delivered to a new leader

    async def _fold(self, frame: Frame, position: int, run: int) -> None:
        """Fold a frame. Raises `Fault` at once for later frames of a log whose fold has failed with a bug.

        So a log that cannot be folded is tried a few times once, and not with each of its frames: the frames of other
        sandboxes wait behind it.
        """
        try:
            await self._trajectories.take(frame, position, run=run)
        except (Fault, Transient):
            raise
        except Exception as bug:
            if position > self._unfoldable.setdefault(frame.sandbox_id, position):
                first = self._unfoldable[frame.sandbox_id]
                text = f"the log of {frame.sandbox_id} cannot be folded from position {first} on: {bug!r}"
                raise Fault(text) from bug  # the frame is a dead letter; once the bug is gone, the whole log is read
            raise
        self._unfoldable.pop(frame.sandbox_id, None)

    def _unbroken_from(self, stored: Stored) -> int:
        """Return the position at which the unbroken row of deliveries began that ends with this frame.

        Frames before that position may have been delivered to another process.
        """
        part, position = stored.subject.split(".")[1], stored.position
        last = self._last.get(part)
        if last is None or position > last + 1:
            self._run[part] = position
        self._last[part] = max(position, last or 0)
        return self._run[part]

    def _still_leading(self) -> None:
        if not self._surely_leading():
            raise Transient("this guardian may have lost the leadership", delay_s=1.0)
