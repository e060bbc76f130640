"""Health is public, so the checks behind it run at most once a second."""

import asyncio

import pytest

from muster.management_api.health.routes.health import SHARED_S, SharedResult
from tests.support.virtual_time import in_virtual_time

TAKES_S = 0.4


class Read:
    """A slow reading that counts its calls."""

    def __init__(self) -> None:
        self.times = 0
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.times += 1
        number = self.times
        await asyncio.sleep(TAKES_S)
        if self.error is not None:
            raise self.error
        return number


@in_virtual_time
async def test_requests_within_a_second_share_one_health_reading() -> None:
    read = Read()
    shared = SharedResult(read)

    together = await asyncio.gather(*(shared.get() for _ in range(100)))
    soon = await shared.get()
    await asyncio.sleep(SHARED_S * 1.01)
    later = await shared.get()

    assert (set(together), soon, later, read.times) == ({1}, 1, 2, 2)


@in_virtual_time
async def test_cancelled_request_does_not_cancel_the_shared_reading() -> None:
    read = Read()
    shared = SharedResult(read)
    async with asyncio.TaskGroup() as tasks:
        impatient, patient, last = (tasks.create_task(shared.get()) for _ in range(3))
        await asyncio.sleep(TAKES_S / 2)
        impatient.cancel()

    assert impatient.cancelled()
    assert (patient.result(), last.result()) == (2, 2)


@in_virtual_time
async def test_failed_reading_is_not_cached() -> None:
    read = Read()
    shared, read.error = SharedResult(read), OSError("away")
    with pytest.raises(OSError, match="away"):
        await shared.get()
    read.error = None

    assert await shared.get() == 2
