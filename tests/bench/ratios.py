"""Measures a path and a minimal program in the same run, and prints the ratio."""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """Latencies of one kind of call, in milliseconds."""

    p50: float
    p99: float


async def latency(call: Callable[[int], Awaitable[object]], *, calls: int, side_by_side: int = 1) -> Latency:
    """Measure `calls` calls of `call(lane)`, `side_by_side` lanes in parallel. A tenth of the calls first warm up."""
    took: list[float] = []

    async def one_after_another(lane: int, count: int, into: list[float]) -> None:
        for _ in range(count):
            began = time.perf_counter()
            await call(lane)
            into.append((time.perf_counter() - began) * 1000)

    await one_after_another(0, max(5, calls // 10), [])
    async with asyncio.TaskGroup() as tasks:
        for lane in range(side_by_side):
            tasks.create_task(one_after_another(lane, calls // side_by_side, took))
    return Latency(statistics.median(took), statistics.quantiles(took, n=100)[98])


async def rate(work: Callable[[int], Awaitable[object]], *, times: int, side_by_side: int) -> float:
    """Return the calls of `work(lane)` per second, with `side_by_side` lanes in parallel."""

    async def lane(number: int) -> None:
        for _ in range(times // side_by_side):
            await work(number)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(side_by_side):
            tasks.create_task(lane(number))
    return times / (time.perf_counter() - began)


def say(line: str = "") -> None:
    """Print one line of the report."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def row(name: str, measured: str, bare: str, ratio: str) -> None:
    """Print one row of a table."""
    say(f"  {name:<38} {measured:>18}   {bare:>26}   {ratio:>8}")
