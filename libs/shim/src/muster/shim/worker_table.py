"""All workers of this shim by key, their exits in order, and the reaping of their keepers."""

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
_GONE_S = 5.0  # what follows a KILL; longer means a process stuck in the kernel


class WorkerTable:
    """Who runs, who ran. Its reaper must be told of every SIGCHLD."""

    def __init__(self, ladder: IsolationSelector, state: Path, now: Clock) -> None:
        self._ladder, self._state, self._now = ladder, state, now
        self._journal = ProcessJournal(state / "records.jsonl")
        self._workers: dict[str, ShimWorker] = {}
        self._keepers: dict[int, ShimWorker] = {}
        self._spares = PrewarmedKeepers()
        self._exited: dict[int, ProcessRecord] = {}
        self._news = asyncio.Event()
        self._listening = set[OutputSubscription]()
        self._orphans = False
        self._closed = False
        for record in list(self._journal.records.values()):
            self._adopt(record)

    async def launch(self, launch: LaunchRequest) -> ProcessRecord:
        """The worker of this key: a new one only where the key is new."""
        worker = self._workers.get(launch.key) or self._start(launch)
        await _within(_START_S, worker.started, "its start")
        return worker.record

    def get(self, key: str) -> ProcessRecord | None:
        """Its record, or None."""
        return worker.record if (worker := self._workers.get(key)) else None

    def starting_with(self, prefix: str) -> list[ProcessRecord]:
        """Their records, oldest first."""
        return [worker.record for key, worker in self._workers.items() if key.startswith(prefix)]

    def worker(self, key: str) -> ShimWorker:
        """The worker of this key. Raises `NotFound`."""
        if not (worker := self._workers.get(key)):
            raise NotFound(f"no process has the key {key}", field="$.key")
        return worker

    async def stop(self, key: str, grace_s: float) -> ProcessRecord:
        """End a worker; its record once nothing of it is left."""
        worker = self.worker(key)
        worker.stop(grace_s, "request")
        await _within(grace_s + _GONE_S, worker.ended, "its end")
        return worker.record

    async def remove(self, key: str) -> None:
        """Kill what runs of it and forget it."""
        if not (worker := self._workers.get(key)):
            return
        worker.stop(0, "request")
        await _within(_GONE_S, worker.ended, "its end")
        if self._workers.get(key) is worker:
            del self._workers[key]
            self._exited.pop(worker.record.exit_no or 0, None)
            worker.output.remove()
            self._journal.write(JournalEntry(removed=key))

    def renew(self, keys: list[str], prefix: str | None) -> list[str]:
        """Start leases again; whose."""
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
        """Every exit numbered above `after`, for ever. A number never given is another roster's, and counts as 0."""
        seen = after if 0 <= after <= self._journal.exits else 0
        while True:
            news = self._news
            for number in sorted(number for number in self._exited if number > seen):
                seen = number
                if record := self._exited.get(number):  # it may have been removed while we told of others
                    yield record
            await news.wait()

    async def output_changes(self, prefix: str) -> AsyncGenerator[list[str]]:
        """The keys that printed or ended since they were last told, for ever; at first all that start so."""
        listening = OutputSubscription(prefix, [key for key in self._workers if key.startswith(prefix)])
        self._listening.add(listening)
        try:
            while True:
                yield await listening.next()
        finally:
            self._listening.discard(listening)

    def _printed(self, key: str) -> None:
        for listening in self._listening:
            listening.hear(key)

    def reap(self) -> None:
        """Take in every dead child. An error with one is raised after all have been taken in."""
        dead = list[ShimWorker]()
        with suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self._spares.died(pid)
                worker = self._keepers.pop(pid, None)
                self._orphans |= worker is None or not worker.reported
                if worker:
                    dead.append(worker)
        with ExitStack() as ends:
            ends.callback(self._kill_orphans)
            for worker in reversed(dead):  # a stack: the first to die is the first to be numbered
                ends.callback(self._end, worker)

    def _kill_orphans(self) -> None:
        if self._orphans:  # a keeper was killed: what it kept is ours now, we being its sub-reaper
            orphans = descendants(os.getpid(), frozenset(self._keepers) | self._spares.pids)
            kill_all(orphans)
            self._orphans = bool(orphans)

    async def close(self, grace_s: float, by: StoppedBy) -> None:
        """Stop all at once, and start no more."""
        self._closed = True
        self._spares.close()
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
            raise Unavailable("the shim is stopping and starts nothing more")
        _check(launch)
        record = ProcessRecord(
            key=launch.key, state="running", isolation=self._ladder.isolation.level, started_at=self._now()
        )
        argv = self._ladder.argv(launch)
        worker = ShimWorker(
            record,
            self._output(launch.key),
            self._now,
            on_print=self._printed,
            on_crash=lambda: self._crashed(launch, argv),
        )
        worker.output.remove()
        try:
            line = self._spares.take(argv) or KeeperChannel(argv)
        except OSError as error:
            raise Unavailable(f"no keeper could be started: {error}") from error
        worker.start(launch, line, self._ladder.order(launch))
        self._keepers[line.pid] = worker
        self._workers[launch.key] = worker
        self._journal.write(JournalEntry(record=record))
        return worker

    def _crashed(self, launch: LaunchRequest, argv: list[str]) -> None:
        if launch.again and not self._closed:
            self._spares.prepare(argv)

    def _end(self, worker: ShimWorker) -> None:
        try:
            worker.gone()
        finally:
            self._number(worker)
            worker.release()

    def _number(self, worker: ShimWorker) -> None:
        self._journal.exits += 1
        worker.record = replace(worker.record, exit_no=self._journal.exits)
        self._exited[self._journal.exits] = worker.record
        self._journal.write(JournalEntry(record=worker.record))
        self._news.set()
        self._news = asyncio.Event()

    def _adopt(self, record: ProcessRecord) -> None:
        """A worker of an earlier shim; what ran then died with it."""
        if lost := record.state == "running":
            error = "the shim that kept it died, and it died with it"
            record = replace(record, state="exited", ended_at=self._now(), error=error)
        worker = self._workers[record.key] = ShimWorker(record, self._output(record.key), self._now)
        if lost:
            self._number(worker)
        else:
            self._exited[record.exit_no or 0] = record

    def _output(self, key: str) -> OutputFile:
        return OutputFile(self._state / f"{key}.out")


class OutputSubscription:
    """Who printed since one client was last told."""

    def __init__(self, prefix: str, keys: list[str]) -> None:
        self._prefix = prefix
        self._keys = dict.fromkeys(keys)
        self._heard = asyncio.Event()
        self._heard.set()

    def hear(self, key: str) -> None:
        """Worth telling, if it is one of these."""
        if key.startswith(self._prefix):
            self._keys[key] = None
            self._heard.set()

    async def next(self) -> list[str]:
        """Wait for some, and forget them."""
        await self._heard.wait()
        self._heard.clear()
        keys, self._keys = list(self._keys), {}
        return keys


async def _within(seconds: float, event: asyncio.Event, what: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        raise TimedOut(f"waited {seconds:g} s for {what}") from None


def _check(launch: LaunchRequest) -> None:
    """Refuse what could not work, naming the field."""
    for field, texts in (("argv", launch.argv), ("env", [*launch.env, *launch.env.values()]), ("cwd", [launch.cwd])):
        if any("\0" in text for text in texts):
            raise InvalidMessage("no argument, variable or path can hold a NUL", field=f"$.{field}")
    if any(not name or "=" in name for name in launch.env):
        raise InvalidMessage("a variable's name is not empty and holds no `=`", field="$.env")
    for field, paths in (("cwd", [launch.cwd]), ("writable", launch.writable), ("readable", launch.readable)):
        for path in paths:
            if "\0" in path or not Path(path).is_absolute() or Path(path) == Path("/"):
                raise InvalidMessage(f"{path!r} is not an absolute path below /", field=f"$.{field}")
            try:
                Path(path).stat()
            except OSError as error:
                raise InvalidMessage(f"{path}: {error.strerror}", field=f"$.{field}") from None
    if not Path(launch.cwd).is_dir():
        raise InvalidMessage(f"{launch.cwd} is not a directory", field="$.cwd")
