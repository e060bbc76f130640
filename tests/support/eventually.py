"""Waits by polling for a state of another process, a table or a server to which a test cannot subscribe."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, overload

from tests.support.patience import PATIENCE_S

LONGEST_PAUSE_S = 0.25


@overload
async def eventually[T](
    look: Callable[[], Awaitable[T]],
    holds: Callable[[T], object] = ...,
    *,
    within_s: float = ...,
    every_s: float = ...,
) -> T: ...


@overload
async def eventually[T](
    look: Callable[[], T], holds: Callable[[T], object] = ..., *, within_s: float = ..., every_s: float = ...
) -> T: ...


async def eventually(
    look: Callable[[], Any],
    holds: Callable[[Any], object] = bool,
    *,
    within_s: float = PATIENCE_S,
    every_s: float = 0.02,
) -> Any:
    """Call `look` until `holds` is true of its result, and return this result.

    The pause between two calls is `every_s` seconds at first and grows up to 0.25 s. An error of `look` is raised at
    once. After `within_s` seconds, raises AssertionError with the last result.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while True:
        value = look()
        if inspect.isawaitable(value):
            value = await value
        if holds(value):
            return value
        if loop.time() >= until:
            raise AssertionError(f"the value is still {value!r} after {within_s} s")
        await asyncio.sleep(every_s)
        every_s = min(every_s * 1.2, max(every_s, LONGEST_PAUSE_S))
