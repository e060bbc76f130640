"""Starts a worker: forked from a fork server if its launch names one, and otherwise with a keeper of its own.

launch --no preload--------------------------------> spawned
   +--preload--> fork server ready? --> forked, `settled` within 5 s --> started
                      |                     |
                      +---------------------+--CannotFork--> spawned; the record contains the reason
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from muster.common.faults import Unavailable
from muster.shim.fork_parents import CannotFork, ForkParents, forked_order
from muster.shim.isolation import IsolationSelector
from muster.shim.keeper_channel import KeeperChannel, spawning
from muster.shim.protocol import LaunchRequest
from muster.shim.worker_process import ShimWorker

_FORK_SERVER_S = 20.0
"""The longest time that a launch waits for its fork server to import its modules."""
_FORK_S = 5.0
"""The longest time from the request to fork a worker to its first packet."""


class WorkerStarter:
    """Starts the workers of one shim. `keepers` gets the pid of each keeper that the shim must reap.

    `end` is called for a worker that ended without such a keeper.
    """

    def __init__(
        self,
        isolation: IsolationSelector,
        parents: ForkParents,
        keepers: dict[int, ShimWorker],
        end: Callable[[ShimWorker], None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._isolation, self._parents, self._keepers = isolation, parents, keepers
        self._end, self._tasks = end, tasks

    def start(self, worker: ShimWorker, launch: LaunchRequest) -> None:
        """Begin to start a worker. Raises `Unavailable` if its keeper cannot be started."""
        worker.launched()
        if launch.preload is None:
            self._spawn(worker, launch)
        else:
            worker.starting = self._tasks.create_task(self._fork_or_spawn(worker, launch))

    def _spawn(self, worker: ShimWorker, launch: LaunchRequest) -> None:
        try:
            channel = KeeperChannel(spawning(self._isolation.argv(launch)))
        except OSError as error:
            raise Unavailable(f"the keeper of {launch.key} could not be started: {error}") from error
        worker.start(launch, channel, self._isolation.order(launch))
        self._keepers[channel.pid] = worker

    async def _fork_or_spawn(self, worker: ShimWorker, launch: LaunchRequest) -> None:
        """Start a worker. This method must not raise: an exception would end the tasks of all other workers."""
        try:
            try:
                await self._fork(worker, launch)
            except CannotFork as error:
                if worker.running and worker.record.stopped_by is None:
                    worker.record = replace(worker.record, forked=False, not_forked=str(error))
                    self._spawn(worker, launch)
        except Exception as error:  # noqa: BLE001 - the record of the worker contains every reason
            worker.record = replace(worker.record, error=str(error) or type(error).__name__)
        finally:
            worker.starting = None
            # A worker that was stopped before its start, or that could not be started, has no keeper that ends.
            if worker.running and not worker.has_keeper:
                self._end(worker)

    async def _fork(self, worker: ShimWorker, launch: LaunchRequest) -> None:
        """Start a worker with a fork server. Raises `CannotFork`."""

        def ended(channel: KeeperChannel) -> None:
            if worker.has(channel) and worker.running:
                self._end(worker)

        try:
            async with asyncio.timeout(_FORK_SERVER_S):
                channel = await self._parents.channel(launch, ended)
        except TimeoutError:
            raise CannotFork(f"the fork server was not ready within {_FORK_SERVER_S:g} s") from None
        worker.record = replace(worker.record, forked=True)
        worker.start(launch, channel, forked_order(launch))
        with suppress(TimeoutError):
            async with asyncio.timeout(_FORK_S):
                await worker.settled.wait()
        if not worker.started.is_set():
            why = worker.unable or f"the fork server did not fork the worker within {_FORK_S:g} s"
            worker.abandon(channel)
            self._parents.failed(channel, why)
            raise CannotFork(why)
