"""How long tests wait, and how they tell an answer from a deadline. None is a measure: what is fast is for the bench."""

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_S = 60.0
"""What must come may take this long on a busy machine."""
PROMPT_S = 20.0
"""What came within this was not ended by a deadline that the test had set far beyond."""
GONE_S = 10.0
"""Who is told to die by the kernel or a keeper is gone by then."""


async def at_best_s(act: Callable[[], Awaitable[object]], times: int = 3) -> float:
    """How long it takes, where a bound is promised: not each time must be one at which the machine is busy."""
    loop, took_s = asyncio.get_running_loop(), list[float]()
    for _ in range(times):
        began = loop.time()
        await act()
        took_s.append(loop.time() - began)
    return min(took_s)
