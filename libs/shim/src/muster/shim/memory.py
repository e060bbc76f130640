"""Measures what the processes of each worker use: memory, the number of processes, and files that no directory names.

Two measures of memory are taken. `private_bytes` are the pages that a process shares with no other one: what a further
worker costs. `memory_bytes` is held against the limit: pages that several processes share are divided among them, so
that a worker cannot hide memory by sharing it with its own children.
"""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from muster.shim.keeper import children_of_all

_KIB = 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")
_BLOCK = 512
_MOST_DESCRIPTORS = 200_000
"""Most open files of one worker that one measurement looks at."""
_MAP_BYTES = 1024
"""Bytes of `/proc/PID/maps` that take as long as one descriptor."""
_REMOVED_MAP = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) (\S+) (\d+) +/.* \(deleted\)$", re.MULTILINE)


@dataclass
class ProcessUsage:
    """What the keeper and all its descendants use."""

    processes: int = 0
    """Threads of all processes."""
    resident_bytes: int = 0
    """At least the memory that is mapped: pages that several processes share are counted for each of them."""
    private_bytes: int | None = None
    anonymous_bytes: int = 0
    shared_bytes: int = 0
    """Mapped files in memory."""
    deleted_bytes: int = 0
    """Disk space of removed files that a process has open or mapped."""
    unreadable: bool = False
    """Whether a process does not let the shim list its open files."""
    hidden_files: bool = False
    """Whether the worker may hold removed files whose size cannot be read."""
    memory_file_bytes: int = 0
    """Files in memory that no directory names. They use memory even if no process maps them."""

    @property
    def memory_bytes(self) -> int:
        """The memory that counts for the limit."""
        return self.anonymous_bytes + max(self.shared_bytes, self.memory_file_bytes)


def processes_of(keepers: list[int]) -> dict[int, list[int]]:
    """Return, for each keeper, the pids of the keeper and of all its descendants."""
    children = children_of_all()
    found = dict[int, list[int]]()
    for keeper in keepers:
        own, ahead = list[int](), [keeper]
        while ahead:
            own.append(ahead.pop())
            ahead += children.get(own[-1], ())
        found[keeper] = own
    return found


def count(pids: list[int]) -> ProcessUsage:
    """Return the number of threads and the resident memory of processes. Reads one short file for each process."""
    usage = ProcessUsage()
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:  # The process has ended meanwhile.
            continue
        usage.processes += int(stat[17])
        usage.resident_bytes += int(stat[21]) * _PAGE
    return usage


def measure(pids: list[int], usage: ProcessUsage) -> None:
    """Add the memory of processes to a usage. Does nothing if all of them have ended.

    A process can hide its memory from all users but root. Then all its resident memory counts. The first process is the
    keeper, which is trusted.
    """
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except PermissionError:
            usage.anonymous_bytes += count([pid]).resident_bytes if pid != pids[0] else 0
            continue
        except OSError:
            continue
        sizes = {name: int(rest.split()[0]) * _KIB for name, _, rest in (line.partition(":") for line in lines)}
        private = sum(size for name, size in sizes.items() if name.startswith("Private_"))
        usage.private_bytes = (usage.private_bytes or 0) + private
        usage.anonymous_bytes += sizes.get("Pss_Anon", private)
        usage.shared_bytes += sizes.get("Pss_Shmem", 0)


def measure_files(pids: list[int], usage: ProcessUsage) -> None:
    """Add the removed files and the files in memory that processes hold, each once. Follows no link.

    The first process is the keeper, which is trusted, and whose files only root can read.
    """
    search = _FileSearch(usage)
    for pid in pids[1:]:
        search.look_at(pid)
        if search.looked > _MOST_DESCRIPTORS:
            usage.hidden_files = True
            return


class _FileSearch:
    """One search for the removed files of a worker's processes."""

    def __init__(self, usage: ProcessUsage) -> None:
        self.looked = 0
        self._usage, self._seen = usage, set[tuple[int, int]]()

    def look_at(self, pid: int) -> None:
        """Add the files of one process."""
        mapped = False
        # Each thread may have descriptors of its own. The main thread has neither files nor memory after its end.
        for thread in _threads(pid):
            try:
                self._look_at_descriptors(f"/proc/{thread}")
                mapped = mapped or self._look_at_maps(f"/proc/{thread}")
            except (FileNotFoundError, ProcessLookupError):
                continue
            except OSError:  # A process can forbid this to all users but root.
                self._usage.unreadable = True
                self._usage.hidden_files = True
            if self.looked > _MOST_DESCRIPTORS:
                return

    def _look_at_descriptors(self, place: str) -> None:
        for name in os.listdir(f"{place}/fd"):  # noqa: PTH208 - as above
            self.looked += 1
            if self.looked > _MOST_DESCRIPTORS:
                return
            path = f"{place}/fd/{name}"
            try:
                target = os.readlink(path)  # noqa: PTH115 - as above
                if target.endswith(" (deleted)"):
                    self._add(os.stat(path), target)  # noqa: PTH116 - as above
                elif target.startswith("socket:") and _has_descriptors_in_transit(f"{place}/fdinfo/{name}"):
                    self._usage.hidden_files = True
            except OSError:
                continue

    def _look_at_maps(self, place: str) -> bool:
        """Add the mapped files. Returns whether there are any mappings."""
        maps = Path(f"{place}/maps").read_bytes()
        self.looked += len(maps) // _MAP_BYTES
        for start, end, offset, device, inode in _REMOVED_MAP.findall(maps):
            major, minor = (int(number, 16) for number in device.split(b":"))
            file = (os.makedev(major, minor), int(inode))
            if file in self._seen or file[0] == _memory_device():
                continue
            first, last = int(start, 16), int(end, 16)
            try:
                self._add(os.stat(f"{place}/map_files/{first:x}-{last:x}"), "/")  # noqa: PTH116 - as above
            except PermissionError:  # Only root may read the size. The file has at least the mapped part.
                self._seen.add(file)
                self._usage.deleted_bytes += last - first + int(offset, 16)
                self._usage.hidden_files = True
            except OSError:
                continue
        return bool(maps)

    def _add(self, status: os.stat_result, target: str) -> None:
        if (status.st_dev, status.st_ino) in self._seen:
            return
        self._seen.add((status.st_dev, status.st_ino))
        if target.startswith("/memfd:"):
            self._usage.memory_file_bytes += status.st_blocks * _BLOCK
        elif target.startswith("/"):
            self._usage.deleted_bytes += status.st_blocks * _BLOCK


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - much faster than a `Path`
    except OSError:
        return []


def _has_descriptors_in_transit(fdinfo: str) -> bool:
    """Whether a unix socket holds descriptors that were sent to it and not received."""
    counted = Path(fdinfo).read_bytes().partition(b"scm_fds:")[2].split()
    return bool(counted) and int(counted[0]) > 0


@cache
def _memory_device() -> int:
    """Return the device of all files in memory that have no name."""
    descriptor = os.memfd_create("device")
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)
