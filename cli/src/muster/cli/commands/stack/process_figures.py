"""Reads the memory and the start time of a process from `/proc`."""

import os
from datetime import UTC, datetime
from pathlib import Path

_START_TICKS = 19
"""Position of the start time among the fields of `/proc/PID/stat` after the name, in clock ticks since the boot."""


def memory_mb(pid: int, *, with_children: bool) -> float | None:
    """Return the memory of a process in MiB, optionally with its children; None if the process does not exist.

    The proportional size (Pss) is used if the kernel reports it, otherwise the resident size. PostgreSQL's backends
    share most of their memory, and a sum of resident sizes would count the shared memory once for each backend.
    """
    pids = [pid]
    if with_children:
        try:
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except OSError:
            return None
    sizes = [size for size in map(_size_kb, pids) if size is not None]
    return round(sum(sizes) / 1024, 1) if sizes else None


def _size_kb(pid: int) -> int | None:
    for file, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(field):
                return int(line.split()[1])
    return None


def started_at(pid: int) -> datetime | None:
    """Return the time at which a process started; None if the process does not exist."""
    try:
        # The name of a process may contain blanks and parentheses, so the fields are read after the last parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except (OSError, StopIteration):
        return None
    seconds = int(fields[_START_TICKS]) / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(int(boot.split()[1]) + seconds, UTC)
