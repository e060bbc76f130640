"""Ends the preparation of a sandbox as soon as the sandbox is stopped, deleted or fenced.

A clone, an upload or a provider may take minutes. A change of the record or a fence cancels the running preparation in
this process, and the reconcile loop then reads the new desired state.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandboxes.store import SandboxStore


class SandboxPreparations:
    """The preparations of sandboxes that run in this process, at most one for each sandbox."""

    def __init__(self, sandboxes: SandboxStore, fences: FenceStore) -> None:
        self._sandboxes, self._fences = sandboxes, fences
        self._running = dict[str, asyncio.Task[Any]]()
        sandboxes.on_change(self._check)
        fences.on_fence(self._check)

    def wanted(self, sandbox_id: str) -> bool:
        """Whether the sandbox shall run, as far as this process knows."""
        record = self._sandboxes.known(sandbox_id)
        stopped = record is not None and record.wanted != "running"
        return not stopped and self._fences.get(sandbox_id) is None

    async def run[T](self, sandbox_id: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """Return the result of `work()`, or None if it was cancelled because the sandbox is no longer wanted."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(_outcome(work))
            self._running[sandbox_id] = task
            self._check(sandbox_id)
            try:
                await asyncio.wait({task})
            finally:
                del self._running[sandbox_id]
        if task.cancelled():
            return None
        outcome = task.result()
        if isinstance(outcome, _FailedWork):
            raise outcome.error
        return outcome

    def _check(self, sandbox_id: str) -> None:
        task = self._running.get(sandbox_id)
        if task is not None and not self.wanted(sandbox_id):
            task.cancel()


class _FailedWork(NamedTuple):
    error: Exception


async def _outcome[T](work: Callable[[], Coroutine[Any, Any, T]]) -> T | _FailedWork:
    """Return the error of `work()` instead of raising it, because a TaskGroup would wrap it."""
    try:
        return await work()
    except Exception as error:  # noqa: BLE001 - raised by the caller
        return _FailedWork(error)
