"""Measures the workers of a shim, and kills a worker that is over a limit which the kernel does not hold.

Reading the memory of all processes takes long, and a worker that grows fast must be found fast. So ten times a second
only two numbers of the whole host are read: its available memory, and its number of processes. The workers are measured

- every five seconds, or
- when the host's available memory has fallen, or its number of processes has grown, by a part of the smallest limit
  since the last measurement: no worker can exceed its limit without that.

A worker whose resident memory is below its limit is not measured exactly in between. Memory files that no process maps
are counted when the host's shared memory has grown.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from muster.shim.limit_enforcer import RESERVED_PIDS, LimitEnforcer
from muster.shim.limits import over_hidden_memory, over_memory, over_processes
from muster.shim.memory import ProcessUsage, count, measure, measure_files, processes_of
from muster.shim.worker_process import ShimWorker

LOOK_S = 0.1
MEASURE_S = 5.0
_LARGEST_STEP = 256 << 20
_SMALLEST_STEP = 16 << 20
_PARTS = 4
"""A measurement is due when the host has lost this part of the smallest limit."""
_MOST_NEW_PROCESSES = 128
_KIB = 1024


@dataclass(frozen=True)
class HostUse:
    """The memory and the processes of the whole host."""

    available_bytes: int
    shared_bytes: int
    """Files in memory, and memory that processes share."""
    processes: int
    """Threads of all processes."""

    @classmethod
    def now(cls) -> "HostUse":
        """Read the present numbers."""
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = {name: int(rest.split()[0]) * _KIB for name, _, rest in (line.partition(":") for line in lines)}
        running = Path("/proc/loadavg").read_text().split()[3]
        return cls(fields["MemAvailable"], fields["Shmem"], int(running.partition("/")[2]))


class LimitWatch:
    """The loop of one shim that measures its workers."""

    def __init__(
        self, running: Callable[[], Iterable[ShimWorker]], limits: LimitEnforcer, on_measured: Callable[[], None]
    ) -> None:
        self._running, self._limits, self._on_measured = running, limits, on_measured
        self._last = HostUse.now()
        self._due = 0.0
        self._shared_before: dict[str, int] = {}
        """The host's shared memory when each running worker was first seen, or last did not hide its open files."""

    async def run(self) -> None:
        """Measure the workers again and again."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + MEASURE_S
        while True:
            await asyncio.sleep(LOOK_S)
            if not any(self._running()):
                continue
            now = HostUse.now()
            self._shared_before = {
                worker.record.key: self._shared_before.get(worker.record.key, now.shared_bytes)
                for worker in self._running()
            }
            whole = loop.time() >= self._due
            if not whole and not self._suspicious(now):
                # Memory that others have given back must not hide later growth.
                free = max(now.available_bytes, self._last.available_bytes)
                self._last = HostUse(
                    free,
                    min(now.shared_bytes, self._last.shared_bytes),
                    min(now.processes, self._last.processes),
                )
                continue
            files = whole or now.shared_bytes - self._last.shared_bytes > _SMALLEST_STEP
            self._last = now
            await self._measure(whole=whole, files=files)
            if whole:
                self._due = loop.time() + MEASURE_S
                self._on_measured()
                self._limits.tidy()

    def _suspicious(self, now: HostUse) -> bool:
        most = [limits for worker in self._running() if (limits := self._limits.of(worker.record.key))]
        memory = min((limits.memory_bytes for limits in most if limits.memory_bytes), default=None)
        if memory is not None and self._limits.watches_memory:
            step = min(_LARGEST_STEP, max(_SMALLEST_STEP, memory // _PARTS))
            lost = self._last.available_bytes - now.available_bytes
            if lost > step or now.shared_bytes - self._last.shared_bytes > step:
                return True
        processes = min((limits.processes for limits in most if limits.processes), default=None)
        return processes is not None and now.processes - self._last.processes > min(_MOST_NEW_PROCESSES, processes)

    async def _measure(self, *, whole: bool, files: bool) -> None:
        workers = {worker.keeper_pid: worker for worker in self._running() if worker.keeper_pid}
        exact = {pid: self._memory_limit(worker) for pid, worker in workers.items()}
        measured = await asyncio.to_thread(_measured, exact, whole=whole, files=files)
        for pid, usage in measured.items():
            if workers[pid].running:
                self._take(workers[pid], usage, whole=whole)

    def _memory_limit(self, worker: ShimWorker) -> int | None:
        limits = self._limits.of(worker.record.key)
        return limits.memory_bytes if limits and self._limits.watches_memory else None

    def _take(self, worker: ShimWorker, usage: ProcessUsage, *, whole: bool) -> None:
        if whole and usage.private_bytes is not None:
            worker.record = replace(
                worker.record,
                private_bytes=usage.private_bytes,
                deleted_bytes=usage.deleted_bytes,
                hidden_files=usage.hidden_files,
            )
        key, shared = worker.record.key, self._last.shared_bytes
        if whole and not usage.unreadable:
            self._shared_before[key] = shared
        limits, memory = self._limits.of(key), self._memory_limit(worker)
        if memory is not None and usage.memory_bytes > memory:
            worker.exceed(over_memory(memory))
        elif memory is not None and usage.unreadable and shared - self._shared_before.get(key, shared) > memory:
            worker.exceed(over_hidden_memory(memory))
        elif limits and limits.processes and usage.processes > limits.processes + RESERVED_PIDS:
            worker.exceed(over_processes(limits.processes))


def _measured(memory_limits: dict[int, int | None], *, whole: bool, files: bool) -> dict[int, ProcessUsage]:
    """Return what the workers with these keepers use."""
    found = dict[int, ProcessUsage]()
    for keeper, pids in processes_of(list(memory_limits)).items():
        usage = found[keeper] = count(pids)
        limit = memory_limits[keeper]
        if files:
            measure_files(pids, usage)
        if whole or (limit is not None and usage.resident_bytes + usage.memory_file_bytes > limit):
            measure(pids, usage)
    return found
