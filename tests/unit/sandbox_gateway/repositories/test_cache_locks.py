"""Locks of the cache have a deadline and a queue, in virtual time."""

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from muster.common.faults import Unavailable
from muster.sandbox_gateway.repositories.adapters.cache_locks import CacheLocks
from tests.support.virtual_time import in_virtual_time


@in_virtual_time
async def test_a_lock_that_another_process_never_gives_up_is_not_waited_for_without_end(tmp_path: Path) -> None:
    other = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    locks = CacheLocks(wait_s=20.0)
    for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX):
        with pytest.raises(Unavailable, match="20 s"):
            async with locks.locked(tmp_path, kind):
                pass
    os.close(other)
    async with locks.locked(tmp_path, fcntl.LOCK_EX):
        pass


@in_virtual_time
async def test_a_writer_is_not_overtaken_by_readers_that_come_later(tmp_path: Path) -> None:
    locks, order = CacheLocks(wait_s=60.0), list[str]()

    async def use(name: str, kind: int, hold_s: float) -> None:
        async with locks.locked(tmp_path, kind):
            order.append(name)
            await asyncio.sleep(hold_s)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(use("reader", fcntl.LOCK_SH, 5.0))
        await asyncio.sleep(1.0)
        tasks.create_task(use("writer", fcntl.LOCK_EX, 1.0))
        await asyncio.sleep(1.0)
        for number in range(30):
            tasks.create_task(use(f"late {number}", fcntl.LOCK_SH, 5.0))
    assert order == ["reader", "writer", *(f"late {number}" for number in range(30))]


@in_virtual_time
async def test_64_writers_take_turns_and_a_cancelled_one_blocks_none(tmp_path: Path) -> None:
    locks, running, done = CacheLocks(wait_s=600.0), 0, list[int]()

    async def use(number: int) -> None:
        nonlocal running
        async with locks.locked(tmp_path, fcntl.LOCK_EX):
            running += 1
            assert running == 1
            await asyncio.sleep(1.0)
            running -= 1
            done.append(number)

    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(use(number)) for number in range(64)]
        await asyncio.sleep(2.5)
        made[10].cancel()
    assert done == [number for number in range(64) if number != 10]
