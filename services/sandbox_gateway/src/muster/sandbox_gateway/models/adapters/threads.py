"""Runs model calls on event loops in separate threads, so that a provider's code cannot block the gateway's event loop.

LiteLLM has code that blocks, such as logins that sleep, synchronous requests for credentials, and DNS resolvers. This
code runs on a *lane*: an event loop in a daemon thread, with a bounded pool of daemon threads as its default executor.
Before each call the gateway probes the event loop and the executor of the lane. A lane that does not answer in time is
replaced by a new one and gets no more calls. So a provider that blocks delays only its own calls. The caller sets the
deadline of a call. At the deadline the call is cancelled, or abandoned if its code blocks. If too many replaced lanes
still block, no new lane is made, and calls are refused until one of these lanes ends. All threads are daemons, so that
the process can exit.
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
    """Runs up to `most_calls` model calls at the same time on event loops in separate threads.

    An event loop that does not answer a probe in `stalled_after_s` seconds is replaced. If `most_stalled` replaced
    event loops still block, no new one is made, and calls are refused. `threads` is the number of threads in the
    executor of an event loop.
    """

    def __init__(
        self, *, threads: int = 32, most_calls: int = 256, most_stalled: int = 3, stalled_after_s: float = 10.0
    ) -> None:
        self._threads, self._most_calls = threads, most_calls
        self._most_stalled, self._stalled_after_s = most_stalled, stalled_after_s
        self._lane: _Lane | None = None
        self._retired: list[_Lane] = []
        self._running = 0

    async def run[T](self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that `make` returns on an event loop in another thread, and return the coroutine's result.

        If this call is cancelled, the coroutine is cancelled, or abandoned if its code blocks. Raises `TooMany` if too
        many calls run, and `Unavailable` if too many event loops block; the coroutine is then not run.
        """
        if self._running >= self._most_calls:
            raise TooMany(
                f"this gateway already runs {self._most_calls} model calls; send the request again in a few seconds"
            )
        self._running += 1
        try:
            lane = await self._responsive()
            return await asyncio.wrap_future(lane.begin(make()))
        finally:
            self._running -= 1

    def close(self) -> None:
        """Stop the event loops for model calls. A loop that is blocked by the code of a call continues to run."""
        for lane in (self._lane, *self._retired):
            if lane is not None:
                lane.close()

    async def _responsive(self) -> "_Lane":
        while True:
            lane = self._lane = self._lane or self._fresh()
            try:
                async with asyncio.timeout(self._stalled_after_s):
                    await asyncio.wrap_future(lane.begin(_probe()))
            except TimeoutError:
                if self._lane is lane:
                    log.error("blocked thread of model calls replaced", retired=len(self._retired) + 1)  # noqa: TRY400 - the traceback shows no cause
                    self._lane = None
                    self._retired.append(lane)
                    lane.retire()
            else:
                return lane

    def _fresh(self) -> "_Lane":
        self._retired = [lane for lane in self._retired if lane.alive]
        if len(self._retired) >= self._most_stalled:
            raise Unavailable(
                "code of model providers blocks all threads for model calls; send the request again later"
            )
        return _Lane(self._threads)


class _Lane:
    """One event loop in a thread, with its executor and the model calls that run on it."""

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
        """End this event loop's thread when its model calls have ended, which is late if the code of a call blocks."""
        asyncio.run_coroutine_threadsafe(self._finish(list(self._calls)), self._loop)

    def close(self) -> None:
        for future in list(self._calls):
            future.cancel()
        with suppress(RuntimeError):  # `call_soon_threadsafe` fails if the event loop is closed already
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
        self._loop.close()  # `close` also shuts down the executor, whose threads end when their calls end


async def _probe() -> None:
    """Wait until the running event loop and one thread of its executor are free."""
    await asyncio.get_running_loop().run_in_executor(None, int)


class _DaemonThreads(ThreadPoolExecutor):
    """A pool of daemon threads.

    asyncio accepts only a `ThreadPoolExecutor` as default executor, and the standard one waits for its threads at exit.
    """

    def __init__(self, most: int) -> None:
        super().__init__(max_workers=1)  # `ThreadPoolExecutor` starts no thread, because this class overrides `submit`
        self._most, self._begun, self._todo = most, 0, queue.SimpleQueue[Callable[[], None] | None]()
        self._lock, self._unfinished = threading.Lock(), 0

    @property
    def busy(self) -> bool:
        """Whether any call that was submitted to the pool has not ended yet."""
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
        except BaseException as error:  # noqa: BLE001 - the caller that waits for the future gets the exception
            future.set_exception(error)
        finally:
            with self._lock:
                self._unfinished -= 1
