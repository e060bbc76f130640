"""Measures the memory that only one worker's processes use: the pages that the worker shares with no other process."""

from pathlib import Path

from muster.shim.keeper import children_of_all

_KIB = 1024


def private_bytes(keepers: list[int]) -> dict[int, int]:
    """Return, for each keeper, the private memory of the keeper and of all its descendants, in bytes.

    Processes that end meanwhile are left out. A keeper without a process is left out too.
    """
    children = children_of_all()
    used = dict[int, int]()
    for keeper in keepers:
        sizes, ahead = list[int](), [keeper]
        while ahead:
            pid = ahead.pop()
            ahead += children.get(pid, ())
            if (size := _private(pid)) is not None:
                sizes.append(size)
        if sizes:
            used[keeper] = sum(sizes)
    return used


def _private(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) * _KIB for line in lines if line.startswith("Private_"))
