"""Model calls run in separate threads, so that blocking code delays only its own call."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from muster.common.faults import TooMany, Unavailable
from muster.sandbox_gateway.models.adapters.threads import ModelThreads
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S

STALLED_S = 0.5


class Blocking:
    """Code of a provider that blocks its thread until the test releases it."""

    def __init__(self) -> None:
        self.begun, self._released = threading.Semaphore(0), threading.Event()

    async def in_the_loop(self) -> None:
        self.here()

    async def in_a_thread(self) -> None:
        await asyncio.to_thread(self.here)

    def here(self) -> None:
        self.begun.release()
        self._released.wait(PATIENCE_S)

    def release(self) -> None:
        self._released.set()


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    code = Blocking()
    yield code
    code.release()


async def answer() -> str:
    return "answer"


async def has_begun(code: Blocking, times: int = 1) -> None:
    for _ in range(times):
        assert await asyncio.to_thread(code.begun.acquire, timeout=PATIENCE_S)


async def test_call_whose_code_blocks_is_abandoned_and_the_next_call_is_answered(blocking: Blocking) -> None:
    threads = ModelThreads(stalled_after_s=STALLED_S)
    blocked = asyncio.create_task(threads.run(blocking.in_the_loop))
    await has_begun(blocking)
    assert await threads.run(answer) == "answer"
    assert not blocked.done()
    blocked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await blocked
    assert await threads.run(answer) == "answer"
    blocking.release()
    threads.close()


async def test_calls_that_use_up_all_threads_leave_room_for_the_next_call(blocking: Blocking) -> None:
    threads = ModelThreads(threads=2, stalled_after_s=STALLED_S)
    blocked = [asyncio.create_task(threads.run(blocking.in_a_thread)) for _ in range(2)]
    await has_begun(blocking, 2)
    assert await threads.run(answer) == "answer"
    blocking.release()
    await asyncio.gather(*blocked)
    threads.close()


async def test_blocked_threads_are_bounded_and_reused_after_they_end(blocking: Blocking) -> None:
    threads = ModelThreads(most_stalled=2, stalled_after_s=STALLED_S)
    for _ in range(2):
        call = asyncio.create_task(threads.run(blocking.in_the_loop))
        await has_begun(blocking)
        call.cancel()
    with pytest.raises(Unavailable):
        await threads.run(answer)
    blocking.release()

    async def answered() -> bool:
        try:
            return await threads.run(answer) == "answer"
        except Unavailable:
            return False

    await eventually(answered)
    threads.close()


async def test_calls_beyond_the_bound_are_refused_at_once() -> None:
    threads, never = ModelThreads(most_calls=1), asyncio.Event()
    waiting = asyncio.create_task(threads.run(never.wait))
    await asyncio.sleep(0)
    with pytest.raises(TooMany):
        await threads.run(answer)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await threads.run(answer) == "answer"
    threads.close()


async def test_an_error_of_a_call_reaches_its_caller() -> None:
    threads = ModelThreads()

    async def fails() -> None:
        raise Unavailable("away")

    with pytest.raises(Unavailable, match="away"):
        await threads.run(fails)
    threads.close()
