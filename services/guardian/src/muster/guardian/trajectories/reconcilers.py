"""Follows the logs of all sandboxes with sixteen durable JetStream consumers, one for each partition.

A frame is one append to a sandbox's log. The guardian acknowledges a frame after it has folded the frame and recorded
the decisions, and only while this process surely leads. If the process dies before, JetStream delivers the frame to the
next leader. A frame that is folded already changes nothing.

A durable consumer delivers a frame once. If a stopped leader received a frame and did not acknowledge it, JetStream
redelivers this frame only later. So a new leader may see a gap. Therefore each frame carries the position `run`, where
the unbroken sequence of deliveries to this process began. If the trajectory ends before that position, the missing
frames are read from the log.
"""

from collections.abc import Callable
from typing import Protocol

from muster.common.bus.connection import Bus
from muster.common.bus.consume import Consumer
from muster.common.bus.message_store import Stored
from muster.common.contract import decode
from muster.common.contracts.sandbox_log import PARTITIONS, Frame, log_stream
from muster.common.faults import Fault, Transient
from muster.guardian.trajectories.store import TrajectoryStore

MOST_TRIES = 3
"""Deliveries of a frame before it becomes a dead letter. Few, because a pure function probably fails again."""


class LifeSignListener(Protocol):
    """Receives each frame as a sign of life of its sandbox."""

    def frame(self, frame: Frame) -> None:
        """Handle a frame that was appended to a sandbox log."""
        ...


class LogFollower:
    """Passes every frame to the trajectory of its sandbox, in order, while `surely_leading` returns True."""

    def __init__(
        self, bus: Bus, trajectories: TrajectoryStore, listener: LifeSignListener, surely_leading: Callable[[], bool]
    ) -> None:
        self._bus, self._trajectories = bus, trajectories
        self._listener, self._surely_leading = listener, surely_leading
        self._last: dict[str, int] = {}
        self._run: dict[str, int] = {}
        self._unfoldable: dict[str, int] = {}

    def consumers(self) -> dict[str, Consumer]:
        """Return the JetStream consumers of all partitions of the sandbox logs, by the names of the durables."""
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
        # The consumer acknowledges the frame when this function returns. If another guardian leads, this check raises
        # an error, so that the frame is not acknowledged and the new leader receives it.
        self._still_leading()

    async def _fold(self, frame: Frame, position: int, run: int) -> None:
        """Fold a frame. If an earlier frame of the same log failed because of a bug, raise `Fault` at once.

        So only the first such frame of a log is tried several times. The frames of other sandboxes wait during these
        tries.
        """
        try:
            await self._trajectories.take(frame, position, run=run)
        except (Fault, Transient):
            raise
        except Exception as bug:
            if position > self._unfoldable.setdefault(frame.sandbox_id, position):
                first = self._unfoldable[frame.sandbox_id]
                text = f"the log of sandbox {frame.sandbox_id} cannot be folded from position {first} on: {bug!r}"
                raise Fault(text) from bug  # The consumer then stores the frame as a dead letter.
            raise
        self._unfoldable.pop(frame.sandbox_id, None)

    def _unbroken_from(self, stored: Stored) -> int:
        """Return the position of the first frame in the unbroken sequence of deliveries that ends with this frame.

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
            raise Transient("this guardian may have lost the leadership; the frame is delivered again", delay_s=1.0)
