"""All workers of this shim by key, the numbered exits, and the reaping of keepers.

A key stands for one process: `launch` with a known key returns that worker, running or ended, until `remove`. So a
client may repeat a launch after a lost answer or a crash of its own.

    launch --> running --keeper reaped--> exited, numbered --remove--> key is free
                  |
                  +-- shim died: all its workers died with it; the next shim reads their records from the journal,
                      and gives each an exit number and an error

The worker is started before its record is written. If the shim dies between the two, the worker dies with it, and the
next shim does not know the key: the repeated launch starts the worker. Exits are numbered in order of death; a watcher
passes the last number it has seen, and so misses no exit when its connection or the shim dies.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec.structs import replace

from muster.common.clock import Clock
from muster.common.faults import InvalidMessage, NotFound, TimedOut, Unavailable
from muster.shim.isolation import IsolationSelector
from muster.shim.journal import JournalEntry, ProcessJournal
from muster.shim.keeper import descendants, kill_all
from muster.shim.keeper_channel import KeeperChannel
from muster.shim.output import OutputFile
from muster.shim.prewarmed import PrewarmedKeepers
from muster.shim.protocol import LaunchRequest, ProcessRecord, StoppedBy
from muster.shim.worker import ShimWorker

_START_S = 30.0
_GONE_S = 5.0  # longest time from KILL to the end; longer means a process stuck in the kernel


class WorkerTable:
    """The workers that run and those that have ended. Call `reap` on every SIGCHLD."""

    def __init__(self, isolation: IsolationSelector, state: Path, now: Clock) -> None:
        self._isolation, self._state, self._now = isolation, state, now
        self._journal = ProcessJournal(state / "records.jsonl")
        self._workers: dict[str, ShimWorker] = {}
        self._keepers: dict[int, ShimWorker] = {}
        self._prewarmed = PrewarmedKeepers()
        self._exited: dict[int, ProcessRecord] = {}
        self._new_exit = asyncio.Event()
        self._subscriptions = set[OutputSubscription]()
        self._orphans = False
        self._closed = False
        for record in list(self._journal.records.values()):
            self._adopt(record)

    async def launch(self, launch: LaunchRequest) -> ProcessRecord:
        """Return the record of this key's worker; start a worker if the key is new. Raises `TimedOut` after 30 s."""
        worker = self._workers.get(launch.key) or self._start(launch)
        await _within(_START_S, worker.started, f"the start of {launch.key}")
        return worker.record

    def get(self, key: str) -> ProcessRecord | None:
        """Return the record of this key's worker, or None."""
        return worker.record if (worker := self._workers.get(key)) else None

    def starting_with(self, prefix: str) -> list[ProcessRecord]:
        """Return the records of all workers whose key starts with `prefix`, oldest first."""
        return [worker.record for key, worker in self._workers.items() if key.startswith(prefix)]

    def worker(self, key: str) -> ShimWorker:
        """Return the worker of this key. Raises `NotFound` if there is none."""
        if not (worker := self._workers.get(key)):
            raise NotFound(f"no worker has the key {key}: it was never launched, or was removed", field="$.key")
        return worker

    async def stop(self, key: str, grace_s: float) -> ProcessRecord:
        """Stop a worker; return its record when all of its processes have ended."""
        worker = self.worker(key)
        worker.stop(grace_s, "request")
        await _within(grace_s + _GONE_S, worker.ended, f"the end of {key}")
        return worker.record

    async def remove(self, key: str) -> None:
        """Kill the worker of this key, and delete its record and output. Unknown keys are ignored."""
        if not (worker := self._workers.get(key)):
            return
        worker.stop(0, "request")
        await _within(_GONE_S, worker.ended, f"the end of {key}")
        if self._workers.get(key) is worker:  # another request may have removed it, and launched a new worker
            del self._workers[key]
            self._exited.pop(worker.record.exit_no or 0, None)
            worker.output.remove()
            self._journal.write(JournalEntry(removed=key))

    def renew(self, keys: list[str], prefix: str | None) -> list[str]:
        """Renew the leases of these keys and of all keys with this prefix; return the keys of running workers."""
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

        A number that this shim never gave belongs to another state directory, and counts as 0.
        """
        seen = after if 0 <= after <= self._journal.exits else 0
        while True:
            new_exit = self._new_exit
            for number in sorted(number for number in self._exited if number > seen):
                seen = number
                if record := self._exited.get(number):  # it may have been removed while an earlier one was sent
                    yield record
            await new_exit.wait()

    async def output_changes(self, prefix: str) -> AsyncGenerator[list[str]]:
        """Yield the keys with new output or an exit, without end; first all keys with this prefix."""
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
        """Reap every dead child. An error with one of them is raised after all are reaped."""
        dead = list[ShimWorker]()
        with suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self._prewarmed.discard_dead(pid)
                worker = self._keepers.pop(pid, None)
                self._orphans |= worker is None or not worker.reported
                if worker:
                    dead.append(worker)
        with ExitStack() as ends:
            ends.callback(self._kill_orphans)
            for worker in reversed(dead):  # an ExitStack runs in reverse: so the first to die gets the first number
                ends.callback(self._end, worker)

    def _kill_orphans(self) -> None:
        if self._orphans:  # a keeper was killed: its orphans are now children of the shim, a sub-reaper
            orphans = descendants(os.getpid(), frozenset(self._keepers) | self._prewarmed.pids)
            kill_all(orphans)
            self._orphans = bool(orphans)

    async def close(self, grace_s: float, by: StoppedBy) -> None:
        """Stop all workers at the same time, and refuse further launches."""
        self._closed = True
        self._prewarmed.close()
        running = list(self._running())
        for worker in running:
            worker.stop(grace_s, by)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s + _GONE_S):
                for worker in running:
                    await worker.ended.wait()
        self._journal.close()

    def _running(self) -> Iterator[ShimWorker]:
        return (worker for worker in self._workers.values() if worker.running)

    def _start(self, launch: LaunchRequest) -> ShimWorker:
        if self._closed:
            raise Unavailable(
                f"the shim is stopping and does not start {launch.key}; try again when it has been restarted"
            )
        _check(launch)
        record = ProcessRecord(
            key=launch.key, state="running", isolation=self._isolation.isolation.level, started_at=self._now()
        )
        argv = self._isolation.argv(launch)
        worker = ShimWorker(
            record,
            self._output(launch.key),
            self._now,
            on_print=self._output_changed,
            on_crash=lambda: self._crashed(launch, argv),
        )
        worker.output.remove()  # files of an earlier worker with this key may be left from a crash
        try:
            channel = self._prewarmed.take(argv) or KeeperChannel(argv)
        except OSError as error:
            raise Unavailable(f"the keeper of {launch.key} could not be started: {error}") from error
        worker.start(launch, channel, self._isolation.order(launch))
        self._keepers[channel.pid] = worker
        self._workers[launch.key] = worker
        self._journal.write(JournalEntry(record=record))
        return worker

    def _crashed(self, launch: LaunchRequest, argv: list[str]) -> None:
        if launch.again and not self._closed:  # a closing shim must not start keepers that it would not stop
            self._prewarmed.prepare(argv)

    def _end(self, worker: ShimWorker) -> None:
        try:
            worker.keeper_ended()
        finally:  # also after an error: otherwise requests would wait for this worker without end
            self._number(worker)
            worker.release()

    def _number(self, worker: ShimWorker) -> None:
        self._journal.exits += 1
        worker.record = replace(worker.record, exit_no=self._journal.exits)
        self._exited[self._journal.exits] = worker.record
        self._journal.write(JournalEntry(record=worker.record))
        self._new_exit.set()  # wakes every watcher that holds this event; the next exit sets the new one
        self._new_exit = asyncio.Event()

    def _adopt(self, record: ProcessRecord) -> None:
        """Add a worker from the journal of an earlier shim. If it was running, it died with that shim."""
        if lost := record.state == "running":
            error = "the shim died, and the worker with it"
            record = replace(record, state="exited", ended_at=self._now(), error=error)
        worker = self._workers[record.key] = ShimWorker(record, self._output(record.key), self._now)
        if lost:  # give it a number, so that watchers see this exit too
            self._number(worker)
        else:
            self._exited[record.exit_no or 0] = record

    def _output(self, key: str) -> OutputFile:
        return OutputFile(self._state / f"{key}.out")


class OutputSubscription:
    """The keys with new output since one client was last sent some."""

    def __init__(self, prefix: str, keys: list[str]) -> None:
        self._prefix = prefix
        self._keys = dict.fromkeys(keys)
        self._changed = asyncio.Event()
        self._changed.set()

    def add(self, key: str) -> None:
        """Note that a worker has new output, if its key has the prefix."""
        if key.startswith(self._prefix):
            self._keys[key] = None
            self._changed.set()

    async def next(self) -> list[str]:
        """Wait for keys, return them, and start over with none."""
        await self._changed.wait()
        self._changed.clear()
        keys, self._keys = list(self._keys), {}
        return keys


async def _within(seconds: float, event: asyncio.Event, what: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        raise TimedOut(f"{what} took longer than {seconds:g} s; ask again") from None


def _check(launch: LaunchRequest) -> None:
    """Raise `InvalidMessage` with the field if the launch cannot work on this machine."""
    for field, texts in (("argv", launch.argv), ("env", [*launch.env, *launch.env.values()]), ("cwd", [launch.cwd])):
        if any("\0" in text for text in texts):
            raise InvalidMessage("arguments, variables and paths cannot hold a NUL", field=f"$.{field}")
    if any(not name or "=" in name for name in launch.env):
        raise InvalidMessage("the name of a variable must not be empty and must not hold `=`", field="$.env")
    for field, paths in (("cwd", [launch.cwd]), ("writable", launch.writable), ("readable", launch.readable)):
        for path in paths:
            if "\0" in path or not Path(path).is_absolute() or Path(path) == Path("/"):
                raise InvalidMessage(f"{path!r} is not an absolute path below /; pass one", field=f"$.{field}")
            try:
                Path(path).stat()
            except OSError as error:
                raise InvalidMessage(f"{path}: {error.strerror}", field=f"$.{field}") from None
    if not Path(launch.cwd).is_dir():
        raise InvalidMessage(f"the working directory {launch.cwd} is not a directory", field="$.cwd")
