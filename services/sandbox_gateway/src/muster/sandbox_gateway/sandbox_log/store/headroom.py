"""How full the log streams are: at 90 % of the limit ordinary frames are refused, the rest is for control frames."""

import asyncio

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.streams import stream_state
from muster.common.faults import TooMany

log = structlog.get_logger()

_SHARE = 0.9
_LOOK_AGAIN_S = 1.0


class Headroom:
    """Knows the size of each stream that is written to, at most `look_again_s` old."""

    def __init__(self, bus: Bus, *, max_bytes: int, look_again_s: float = _LOOK_AGAIN_S) -> None:
        self._bus, self._max_bytes, self._look_again_s = bus, max_bytes, look_again_s
        self._sizes: dict[str, tuple[float, int]] = {}
        self._nearly_full = set[str]()

    @property
    def nearly_full(self) -> list[str]:
        """The streams that took no ordinary frames when last looked at."""
        return sorted(self._nearly_full)

    async def check(self, stream: str) -> None:
        """Raises `TooMany` when the stream is nearly full."""
        if self._max_bytes <= 0:
            return
        now = asyncio.get_running_loop().time()
        looked_at, size = self._sizes.get(stream, (now - self._look_again_s, 0))
        if now - looked_at >= self._look_again_s:
            size = (await stream_state(self._bus, stream)).bytes
            self._sizes[stream] = now, size
            self._note(stream, size)
        if stream in self._nearly_full:
            raise TooMany(f"{stream} is at 90 % of its limit and takes no ordinary frames; archive old sandboxes")

    def _note(self, stream: str, size: int) -> None:
        """Tell of each crossing, once."""
        full = size >= self._max_bytes * _SHARE
        if full == (stream in self._nearly_full):
            return
        said = {"stream": stream, "bytes": size, "max_bytes": self._max_bytes}
        if full:
            self._nearly_full.add(stream)
            log.error("a log is nearly full and takes no ordinary frames; archive old sandboxes", **said)
        else:
            self._nearly_full.discard(stream)
            log.warning("a log has room again", **said)
