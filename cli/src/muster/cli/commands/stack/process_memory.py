"""Measures the memory of a process from `/proc`."""

from pathlib import Path


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
