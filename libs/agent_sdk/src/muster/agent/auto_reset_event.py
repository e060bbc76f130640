"""A wake-up that any thread may give and one task waits for."""

import asyncio


class AutoResetEvent:
    """AutoResetEvent-ups coalesce: one that came while nobody waited is not lost, ten are one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def __call__(self) -> None:
        """Wakes whoever waits. From any thread, also after the loop has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Returns at the next wake-up, or at once if there was one since the last."""
        await self._event.wait()
        self._event.clear()
