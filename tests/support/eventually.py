"""The one way in which tests wait for a state that they cannot subscribe to: of another process, a table, a server."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from tests.support.patience import PATIENCE_S


async def eventually[T](
    look: Callable[[], Awaitable[T] | T], *, within_s: float = PATIENCE_S, every_s: float = 0.02
) -> T:
    """Call `look` until it returns something true, and return that.

    Looks every `every_s` seconds, less often the longer it takes (at most once in 0.25 s). An error of `look` is raised at once.
    Raises AssertionError, naming what was seen last, after `within_s` seconds.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while True:
        seen = look()
        value: T = await seen if inspect.isawaitable(seen) else seen
        if value:
            return value
        if loop.time() >= until:
            raise AssertionError(f"still {value!r} after {within_s} s")
        await asyncio.sleep(every_s)
        every_s = min(every_s * 1.2, 0.25)
