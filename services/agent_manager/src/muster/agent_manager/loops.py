"""Reconcile loops: read what differs from the desired state, act on each difference, and read again.

A loop rests on levels, not edges: a wake-up only says "look now", and everything to do is found by reading. So a lost
wake-up costs at most `recheck_s` seconds, and a process that dies at any line is continued by the next look of any
replica. `act` must be safe to repeat.

```
wait ──woken or recheck_s──▶ find ──▶ act on each item, at most `most_at_once` side by side ──▶ wait
                                       └─ fails: the item waits 0.25, 0.5, 1 … 15 s, others go on
```
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from muster.agent_manager.database.notices import ChangeNotices
from muster.agent_manager.settings import ManagerSettings
from muster.common.faults import Fault, Transient

log = structlog.get_logger()

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 15.0


Loop = tuple[str, Callable[[], Awaitable[None]]]
"""The name of a loop, and the coroutine function that runs it until cancelled."""


class Reconciler[T](Protocol):
    """The two functions of a loop."""

    async def find(self) -> Sequence[T]:
        """Return the items whose actual state differs from the desired one."""
        ...

    async def act(self, item: T, /) -> None:
        """Bring one item closer to its desired state; called again if it raises."""
        ...


class ReconcileLoop[T]:
    """Acts on every item that `find` returns, each in its own task, until `find` no longer returns it.

    `waker` starts a look at once; without it a look starts every `recheck_s` seconds. An item that fails waits longer
    each time.
    """

    def __init__(
        self,
        name: str,
        reconciler: Reconciler[T],
        *,
        key: Callable[[T], str],
        waker: asyncio.Event,
        recheck_s: float,
        most_at_once: int = 16,
    ) -> None:
        self.name = name
        self._find, self._act, self._key = reconciler.find, reconciler.act, key
        self._waker, self._recheck_s, self._most = waker, recheck_s, most_at_once
        self._busy: set[str] = set()
        self._just_done: set[str] = set()
        """Items that finished while `find` was running: its answer about them is old, and another look follows."""
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    async def run(self) -> None:
        """Look and act, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._waker.clear()
                for item in await self._look():
                    key = self._key(item)
                    if self._may(key):
                        self._busy.add(key)
                        tasks.create_task(self._bring_about(key, item))
                try:
                    async with asyncio.timeout(self._until_next_s()):
                        await self._waker.wait()
                except TimeoutError:
                    continue

    async def _look(self) -> Sequence[T]:
        self._just_done.clear()
        try:
            found = await self._find()
        except (Fault, Transient) as error:
            log.warning("reconcile loop cannot read its items", loop=self.name, error=str(error))
            self._not_before[""] = asyncio.get_running_loop().time() + 1.0
            return ()
        self._not_before.pop("", None)
        for gone in self._failures.keys() - {self._key(item) for item in found} - self._busy:
            self._forgive(gone)
        return found

    def _may(self, key: str) -> bool:
        if key in self._busy or key in self._just_done or len(self._busy) >= self._most:
            return False
        return self._not_before.get(key, 0.0) <= asyncio.get_running_loop().time()

    def _until_next_s(self) -> float:
        soonest = min((at for key, at in self._not_before.items() if key not in self._busy), default=None)
        if soonest is None:
            return self._recheck_s
        return min(self._recheck_s, max(0.02, soonest - asyncio.get_running_loop().time()))

    async def _bring_about(self, key: str, item: T) -> None:
        # Must not raise: in a TaskGroup that would cancel all other items. A bug is logged, and the item is tried again
        # later.
        try:
            await self._act(item)
        except (Fault, Transient) as error:
            log.warning("reconcile step failed", loop=self.name, item=key, error=str(error))
            self._fail(key)
        except Exception:
            log.exception("reconcile step raised a bug", loop=self.name, item=key)
            self._fail(key)
        else:
            self._forgive(key)
        finally:
            self._busy.discard(key)
            self._just_done.add(key)
            self._waker.set()

    def _fail(self, key: str) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures - 1, 10))
        self._not_before[key] = asyncio.get_running_loop().time() + delay_s

    def _forgive(self, key: str) -> None:
        self._failures.pop(key, None)
        self._not_before.pop(key, None)


def reconcile_loop[T](
    name: str, reconciler: Reconciler[T], key: Callable[[T], str], notices: ChangeNotices, settings: ManagerSettings
) -> Loop:
    """Return a loop that looks when the database announces a change, and every `recheck_s` seconds."""
    loop = ReconcileLoop(name, reconciler, key=key, waker=notices.waker(), recheck_s=settings.recheck_s)
    return name, loop.run
