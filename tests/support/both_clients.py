"""Calls the API with the asynchronous or the synchronous client, on a virtual clock if the test has one."""

import asyncio
from collections.abc import Callable
from inspect import isasyncgen, isgenerator
from typing import Any, Literal

import pytest

from muster.client import AsyncMuster, Muster

Flavour = Literal["async", "sync"]
Act = Callable[[Any], Any]
"""A function that calls a client of either kind."""
both = pytest.mark.parametrize("flavour", ["async", "sync"])
KEY = "mk_a-key-of-the-test"


class PassingTime:
    """A virtual clock with both kinds of sleep. A sleep returns at once and moves the clock."""

    def __init__(self) -> None:
        self.now_s, self.slept_s = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, pause_s: float) -> None:
        self.slept_s.append(pause_s)
        self.now_s += pause_s

    async def asleep(self, pause_s: float) -> None:
        self.sleep(pause_s)
        await asyncio.sleep(0)


async def using(flavour: Flavour, url: str, act: Act, time: PassingTime | None = None, **options: Any) -> Any:
    """Return the result of `act`, which is called with the client; of a generator, the list of its items."""
    options = {"key": KEY, "chance": lambda: 1.0, **options}
    if time:
        options |= {"monotonic": time.monotonic, "sleep": time.asleep if flavour == "async" else time.sleep}
    if flavour == "async":
        async with AsyncMuster(url, **options) as client:
            result = act(client)
            return [item async for item in result] if isasyncgen(result) else await result

    def blocking() -> Any:
        with Muster(url, **options) as client:
            result = act(client)
            return list(result) if isgenerator(result) else result

    return await asyncio.to_thread(blocking)
