"""Reserves space for control frames in the streams of sandbox logs.

A frame is one append to a sandbox's log. When a stream is at 90 % of its byte limit, ordinary frames, such as events,
are refused. A full stream refuses every append. Without reserved space a full stream could not store a `fenced` or
`closed` frame, so no epoch could be ended. The size of each stream is read at most once a second.
"""

import asyncio

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.streams import stream_state
from muster.common.faults import TooMany

log = structlog.get_logger()

_SHARE = 0.9
_LOOK_AGAIN_S = 1.0


class Headroom:
    """The sizes in bytes of the streams of sandbox logs. Each size is read again after `look_again_s` seconds."""

    def __init__(self, bus: Bus, *, max_bytes: int, look_again_s: float = _LOOK_AGAIN_S) -> None:
        self._bus, self._max_bytes, self._look_again_s = bus, max_bytes, look_again_s
        self._sizes: dict[str, tuple[float, int]] = {}
        self._nearly_full = set[str]()

    @property
    def nearly_full(self) -> list[str]:
        """The names of the log streams that were nearly full when their sizes were last read."""
        return sorted(self._nearly_full)

    async def check(self, stream: str) -> None:
        """Raise `TooMany` if the log stream is nearly full. Does nothing if `max_bytes` is 0 or less."""
        if self._max_bytes <= 0:
            return
        now = asyncio.get_running_loop().time()
        looked_at, size = self._sizes.get(stream, (now - self._look_again_s, 0))
        if now - looked_at >= self._look_again_s:
            size = (await stream_state(self._bus, stream)).bytes
            self._sizes[stream] = now, size
            self._note(stream, size)
        if stream in self._nearly_full:
            raise TooMany(
                f"the log stream {stream} is at 90 % of its limit and accepts no events; archive old sandboxes"
            )

    def _note(self, stream: str, size: int) -> None:
        """Log once when a stream becomes nearly full, and once when the stream has space again."""
        full = size >= self._max_bytes * _SHARE
        if full == (stream in self._nearly_full):
            return
        details = {"stream": stream, "bytes": size, "max_bytes": self._max_bytes}
        if full:
            self._nearly_full.add(stream)
            log.error("log stream nearly full: events refused, archive old sandboxes", **details)
        else:
            self._nearly_full.discard(stream)
            log.warning("log stream has space again", **details)
