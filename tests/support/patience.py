"""Time limits of tests, in seconds. They are no measures of speed; the benchmarks in `tests/bench` measure speed."""

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_S = 60.0
"""An expected event may take this long on a busy machine."""
PROMPT_S = 20.0
"""A call that returns within this time has not waited for its own deadline, which the test sets much longer."""
GONE_S = 10.0
"""A process that the kernel or a keeper kills has ended after this time."""


async def at_best_s(act: Callable[[], Awaitable[object]], times: int = 3) -> float:
    """Return the shortest duration of `times` calls, because a busy machine delays single calls."""
    loop, took_s = asyncio.get_running_loop(), list[float]()
    for _ in range(times):
        began = loop.time()
        await act()
        took_s.append(loop.time() - began)
    return min(took_s)
