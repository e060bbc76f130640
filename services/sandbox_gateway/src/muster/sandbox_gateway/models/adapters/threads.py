"""Runs model calls on event loops in threads of their own, so that no code of a provider can stall the gateway's loop.

LiteLLM has code that blocks: logins that sleep, credentials looked up by synchronous requests, resolvers. It runs here
on a *lane*: an event loop in a daemon thread, whose default executor is a bounded pool of daemon threads. Before each
call the lane is probed, loop and executor. A lane that does not answer in time is retired: it takes no more calls, and
a new one takes its place, so that a provider that blocks costs its own calls only. Callers set the deadline: at its end
the call is cancelled, or abandoned if its code blocks. Retired lanes that still block are counted; when there are too
many, calls are refused until one of them ends. Threads are daemons, so that the process can always exit.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, override

import structlog

from muster.common.faults import TooMany, Unavailable

log = structlog.get_logger()

_CLOSE_S = 1.0


class ModelThreads:
    """At most `most_calls` at once; at most `most_stalled` retired lanes that still block."""

    def __init__(
        self, *, threads: int = 32, most_calls: int = 256, most_stalled: int = 3, stalled_after_s: float = 10.0
    ) -> None:
        self._threads, self._most_calls = threads, most_calls
        self._most_stalled, self._stalled_after_s = most_stalled, stalled_after_s
        self._lane: _Lane | None = None
        self._retired: list[_Lane] = []
        self._running = 0

    async def run[T](self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that `make` returns on a lane, and return its result. Cancelling this abandons it.

        Raises `TooMany` or `Unavailable` without running it.
        """
        if self._running >= self._most_calls:
            raise TooMany(f"{self._most_calls} model calls already run at this gateway; ask again in a moment")
        self._running += 1
        try:
            lane = await self._responsive()
            return await asyncio.wrap_future(lane.begin(make()))
        finally:
            self._running -= 1

    def close(self) -> None:
        """Stop every lane that can be stopped."""
        for lane in (self._lane, *self._retired):
            if lane is not None:
                lane.close()

    async def _responsive(self) -> "_Lane":
        while True:
            lane = self._lane = self._lane or self._fresh()
            try:
                async with asyncio.timeout(self._stalled_after_s):
                    await asyncio.wrap_future(lane.begin(_answers()))
            except TimeoutError:
                if self._lane is lane:
                    log.error("model code blocks its thread", retired=len(self._retired) + 1)  # noqa: TRY400 - no trace says where
                    self._lane = None
                    self._retired.append(lane)
                    lane.retire()
            else:
                return lane

    def _fresh(self) -> "_Lane":
        self._retired = [lane for lane in self._retired if lane.alive]
        if len(self._retired) >= self._most_stalled:
            raise Unavailable("the code of model providers blocks all of this gateway's model threads; ask again later")
        return _Lane(self._threads)


class _Lane:
    """One event loop in a thread, and the calls on it."""

    def __init__(self, threads: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._executor = _DaemonThreads(threads)
        self._loop.set_default_executor(self._executor)
        self._calls = set[Future[Any]]()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() or self._executor.busy

    def begin[T](self, call: Coroutine[Any, Any, T]) -> Future[T]:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def retire(self) -> None:
        """End the thread once the calls that are on it have ended; the code that blocks may go on until then."""
        asyncio.run_coroutine_threadsafe(self._finish(list(self._calls)), self._loop)

    def close(self) -> None:
        for future in list(self._calls):
            future.cancel()
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)

    async def _finish(self, calls: list[Future[Any]]) -> None:
        await asyncio.gather(*map(asyncio.wrap_future, calls), return_exceptions=True)
        self._loop.stop()

    def _run(self) -> None:
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=_CLOSE_S))
        self._loop.close()  # and its executor's threads, as they get free


async def _answers() -> None:
    """Ends as soon as both the loop and a thread of its executor are free."""
    await asyncio.get_running_loop().run_in_executor(None, int)


class _DaemonThreads(ThreadPoolExecutor):
    """A pool of daemon threads. asyncio takes no other class, and the standard one waits for its threads at exit."""

    def __init__(self, most: int) -> None:
        super().__init__(max_workers=1)  # never started: `submit` is replaced
        self._most, self._begun, self._todo = most, 0, queue.SimpleQueue[Callable[[], None] | None]()
        self._lock, self._unfinished = threading.Lock(), 0

    @property
    def busy(self) -> bool:
        """Whether something that was submitted has not ended."""
        return self._unfinished > 0

    @override
    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = Future[T]()
        with self._lock:
            self._unfinished += 1
            starts = self._unfinished > self._begun < self._most
            self._begun += starts
        self._todo.put(partial(self._settle, future, partial(fn, *args, **kwargs)))
        if starts:
            threading.Thread(target=self._work, name="models-worker", daemon=True).start()
        return future

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for _ in range(self._begun):
            self._todo.put(None)

    def _work(self) -> None:
        while (task := self._todo.get()) is not None:
            task()

    def _settle[T](self, future: Future[T], call: Callable[[], T]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
            future.set_exception(error)
        finally:
            with self._lock:
                self._unfinished -= 1
