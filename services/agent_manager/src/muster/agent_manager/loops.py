"""Reconcile loops: each finds the items whose actual state differs from the desired state, and acts on each item.

A wake-up only starts a new round; the round finds all items by reading the database. So a lost wake-up costs at most
`recheck_s` seconds. If a process dies at any line, the next round of any replica finds the item again. So `act` must be
safe to repeat.

```
wait ──woken or recheck_s──▶ find ──▶ act on at most `most_at_once` items at the same time ──▶ wait
                                       └─ fails: the item waits 0.25, 0.5, 1 … 15 s, other items continue
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
    """The two functions of a reconcile loop: one finds the items, the other acts on one item."""

    async def find(self) -> Sequence[T]:
        """Return the items whose actual state differs from the desired one."""
        ...

    async def act(self, item: T, /) -> None:
        """Bring one item closer to its desired state; the loop calls this again for the item if it raises."""
        ...


class ReconcileLoop[T]:
    """Acts on every item that `find` returns, each in a separate asyncio task, until `find` no longer returns the item.

    The event `waker` starts a round at once; without the event a round starts every `recheck_s` seconds. After each
    failure of an item, the loop waits longer before it acts on that item again.
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
        """Items whose `act` ended while `find` was running: the result of `find` may be outdated for these items."""
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    async def run(self) -> None:
        """Run rounds of `find` and `act` until cancelled."""
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
        # An exception here would cancel all other items of the TaskGroup. So a bug is logged, and `act` is called again
        # for this item later.
        try:
            await self._act(item)
        except (Fault, Transient) as error:
            log.warning("reconcile step failed", loop=self.name, item=key, error=str(error))
            self._fail(key)
        except Exception:
            log.exception("reconcile step failed because of a bug", loop=self.name, item=key)
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
    """Return a reconcile loop that runs when the database announces a change, and every `recheck_s` seconds."""
    loop = ReconcileLoop(name, reconciler, key=key, waker=notices.waker(), recheck_s=settings.recheck_s)
    return name, loop.run
