"""The table of all workers of this shim by key. Numbers their exits and reaps their keepers.

A keeper is the process that starts one worker. A key names one process: `launch` with a known key returns that worker,
running or ended, until `remove`. So a client may repeat a launch after a lost reply or after its own crash.

    launch --> running --keeper reaped--> exited, numbered --remove--> key is free
                  |
                  +-- shim died: all its workers died with it; the next shim reads their records from the journal,
                      and gives each an exit number and an error

The worker is started before its record is written. If the shim dies between the two, the worker dies with the shim, and
the next shim does not know the key. Then the repeated launch starts the worker. Exits are numbered in order of death. A
watcher sends the last number that it has seen. So it misses no exit when its connection breaks or the shim dies.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec.structs import replace

from muster.common.clock import Clock
from muster.common.faults import NotFound, TimedOut, Unavailable
from muster.shim.fork_parents import CannotFork, ForkParents
from muster.shim.isolation import IsolationSelector
from muster.shim.journal import JournalEntry, ProcessJournal
from muster.shim.keeper import descendants, kill_all
from muster.shim.launch_check import check_launch
from muster.shim.limit_enforcer import LimitEnforcer
from muster.shim.output import OutputFile
from muster.shim.protocol import LaunchRequest, Preload, ProcessRecord, StoppedBy
from muster.shim.worker_process import ShimWorker
from muster.shim.worker_starter import WorkerStarter

_START_S = 30.0
_GONE_S = 5.0  # The longest time that a killed process takes to end, unless it hangs in the kernel.


class WorkerTable:
    """The running and the ended workers of this shim. The shim must call `reap` on every SIGCHLD."""

    def __init__(
        self,
        isolation: IsolationSelector,
        limits: LimitEnforcer,
        parents: ForkParents,
        state: Path,
        now: Clock,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._isolation, self._limits, self._parents = isolation, limits, parents
        self._state, self._now = state, now
        self._journal = ProcessJournal(state / "records.jsonl")
        self._workers: dict[str, ShimWorker] = {}
        self._keepers: dict[int, ShimWorker] = {}
        self._starter = WorkerStarter(isolation, parents, self._keepers, self._end, tasks)
        self._exited: dict[int, ProcessRecord] = {}
        self._new_exit = asyncio.Event()
        self._subscriptions = set[OutputSubscription]()
        self._orphans = False
        self._closed = False
        for record in list(self._journal.records.values()):
            self._adopt(record)

    async def launch(self, launch: LaunchRequest) -> ProcessRecord:
        """Start a worker if the key is new, and return the record of the key's worker. Raises `TimedOut` after 30 s."""
        worker = self._workers.get(launch.key) or self._start(launch)
        await _within(_START_S, worker.started, f"the start of {launch.key}")
        return worker.record

    async def prepare(self, preload: Preload, *, network: bool) -> str | None:
        """Start a fork server unless it runs. Return None when it is ready, or the reason why it cannot be used."""
        try:
            await self._parents.prepare(preload, network=network)
        except CannotFork as error:
            return str(error)
        return None

    def get(self, key: str) -> ProcessRecord | None:
        """Return the record of this key's worker, or None if the key is unknown."""
        return worker.record if (worker := self._workers.get(key)) else None

    def starting_with(self, prefix: str) -> list[ProcessRecord]:
        """Return the records of all workers whose key starts with `prefix`, oldest first."""
        return [worker.record for key, worker in self._workers.items() if key.startswith(prefix)]

    def worker(self, key: str) -> ShimWorker:
        """Return the worker of this key. Raises `NotFound` if there is none."""
        if not (worker := self._workers.get(key)):
            raise NotFound(f"no worker has the key {key}: it was never launched, or was removed", field="$.key")
        return worker

    async def stop(self, key: str, grace_s: float, exceeded: str | None = None) -> ProcessRecord:
        """Stop a worker, or kill one that has `exceeded` a limit. Return its record after its last process ended."""
        worker = self.worker(key)
        if exceeded:
            worker.exceed(exceeded)
        else:
            worker.stop(grace_s, "request")
        await _within(grace_s + _GONE_S, worker.ended, f"the end of {key}")
        return worker.record

    async def remove(self, key: str) -> None:
        """Kill the worker of this key, and delete its record and output. An unknown key is ignored."""
        if not (worker := self._workers.get(key)):
            return
        worker.stop(0, "request")
        await _within(_GONE_S, worker.ended, f"the end of {key}")
        if self._workers.get(key) is worker:  # Another request may have removed the worker and launched a new one.
            del self._workers[key]
            self._exited.pop(worker.record.exit_no or 0, None)
            worker.output.remove()
            self._journal.write(JournalEntry(removed=key))

    def renew(self, keys: list[str], prefix: str | None) -> list[str]:
        """Renew the leases of the running workers with these keys or with this key prefix. Return their keys."""
        named = set(keys)
        renewed = [
            worker
            for key, worker in self._workers.items()
            if worker.running and (key in named or (prefix is not None and key.startswith(prefix)))
        ]
        for worker in renewed:
            worker.renew()
        return [worker.record.key for worker in renewed]

    async def exits(self, after: int) -> AsyncIterator[ProcessRecord]:
        """Yield the record of every exit numbered above `after`, without end.

        An `after` that this shim never assigned comes from another state directory and is treated as 0.
        """
        seen = after if 0 <= after <= self._journal.exits else 0
        while True:
            new_exit = self._new_exit
            for number in sorted(number for number in self._exited if number > seen):
                seen = number
                # This record may have been removed while an earlier record was sent.
                if record := self._exited.get(number):
                    yield record
            await new_exit.wait()

    async def output_changes(self, prefix: str) -> AsyncGenerator[list[str]]:
        """Yield all keys with this prefix, and then, without end, the keys of workers with new output or an exit."""
        subscription = OutputSubscription(prefix, [key for key in self._workers if key.startswith(prefix)])
        self._subscriptions.add(subscription)
        try:
            while True:
                yield await subscription.next()
        finally:
            self._subscriptions.discard(subscription)

    def _output_changed(self, key: str) -> None:
        for subscription in self._subscriptions:
            subscription.add(key)

    def reap(self) -> None:
        """Reap every dead child. An error with one child is raised after all children are reaped."""
        dead = list[ShimWorker]()
        with suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                worker = self._keepers.pop(pid, None)
                if self._parents.reaped(pid):
                    continue
                self._orphans |= worker is None or not worker.reported
                if worker:
                    dead.append(worker)
        with ExitStack() as ends:
            ends.callback(self._kill_orphans)
            # An ExitStack runs its callbacks in reverse order: the worker that died first gets the lowest exit number.
            for worker in reversed(dead):
                ends.callback(self._end, worker)

    def _kill_orphans(self) -> None:
        # After a keeper was killed, its orphans are children of the shim, because the shim is a sub-reaper.
        if self._orphans:
            orphans = descendants(os.getpid(), frozenset([*self._keepers, *self._parents.pids, *self._limits.pids]))
            kill_all(orphans)
            self._orphans = bool(orphans)

    async def close(self, grace_s: float, by: StoppedBy) -> None:
        """Stop all workers at the same time, and refuse further launches."""
        self._closed = True
        running = list(self.running())
        for worker in running:
            worker.stop(grace_s, by)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s + _GONE_S):
                for worker in running:
                    await worker.ended.wait()
        self._parents.close()
        self._limits.close()
        self._journal.close()

    def running(self) -> Iterator[ShimWorker]:
        """Return the workers that may still run."""
        return (worker for worker in self._workers.values() if worker.running)

    def _start(self, launch: LaunchRequest) -> ShimWorker:
        if self._closed:
            raise Unavailable(
                f"the shim is stopping and does not start {launch.key}; try again when it has been restarted"
            )
        check_launch(launch)
        record = ProcessRecord(
            key=launch.key,
            state="running",
            isolation=self._isolation.isolation.level,
            limits=self._limits.mechanism,
            bounds=launch.limits,
            started_at=self._now(),
        )
        worker = self._worker(record)
        worker.output.remove()  # A crash may have left files of an earlier worker with this key.
        worker.launched()
        self._starter.start(worker, launch)
        self._workers[launch.key] = worker
        self._journal.write(JournalEntry(record=worker.record))
        return worker

    def _end(self, worker: ShimWorker) -> None:
        try:
            worker.keeper_ended()
        finally:  # Requests that wait for this worker must be woken even after an error.
            self._number(worker)
            worker.release()

    def _number(self, worker: ShimWorker) -> None:
        self._journal.exits += 1
        worker.record = replace(worker.record, exit_no=self._journal.exits)
        self._exited[self._journal.exits] = worker.record
        self._journal.write(JournalEntry(record=worker.record))
        self._new_exit.set()  # Requests that watch exits now wake. Then they wait for the next event object.
        self._new_exit = asyncio.Event()

    def _adopt(self, record: ProcessRecord) -> None:
        """Add a worker from the journal. A worker whose record says `running` died with the earlier shim."""
        if lost := record.state == "running":
            error = "the shim died, and the worker with it"
            record = replace(record, state="exited", ended_at=self._now(), error=error)
        worker = self._workers[record.key] = self._worker(record)
        if lost:  # Clients that watch exits receive only numbered exits.
            self._number(worker)
        else:
            self._exited[record.exit_no or 0] = record

    def _worker(self, record: ProcessRecord) -> ShimWorker:
        output = OutputFile(self._state / f"{record.key}.out")
        return ShimWorker(record, output, self._now, self._limits, on_print=self._output_changed)


class OutputSubscription:
    """The keys of workers with new output since the last reply to one watching client."""

    def __init__(self, prefix: str, keys: list[str]) -> None:
        self._prefix = prefix
        self._keys = dict.fromkeys(keys)
        self._changed = asyncio.Event()
        self._changed.set()

    def add(self, key: str) -> None:
        """Record that a worker has new output, if its key has the prefix."""
        if key.startswith(self._prefix):
            self._keys[key] = None
            self._changed.set()

    async def next(self) -> list[str]:
        """Wait until workers have new output. Return their keys and clear the list."""
        await self._changed.wait()
        self._changed.clear()
        keys, self._keys = list(self._keys), {}
        return keys


async def _within(seconds: float, event: asyncio.Event, what: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        raise TimedOut(f"{what} took longer than {seconds:g} s; send the request again") from None
