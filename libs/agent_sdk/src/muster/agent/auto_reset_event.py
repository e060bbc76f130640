"""An event that any thread may set. It is reset when the one waiting task continues."""

import asyncio


class AutoResetEvent:
    """An auto-reset event for one waiting task.

    A set event is kept until the next `wait`. Several calls before one `wait` count as one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def __call__(self) -> None:
        """Set the event. May be called in any thread. Does nothing after the event loop was closed."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Wait until the event is set, and reset it. Returns at once if the event was set since the last `wait`."""
        await self._event.wait()
        self._event.clear()
