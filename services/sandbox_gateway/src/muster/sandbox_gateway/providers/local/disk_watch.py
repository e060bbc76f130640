"""Watches the disk of the gateway's host, and stops sandboxes that use more of it than they may.

The free space of the disk is read every second, which is cheap. The sandboxes' directories are measured

- every 15 seconds, or
- when the free space has fallen by a part of the smallest limit since the last measurement, or is below the floor.

A sandbox that cannot be measured three times in a row is over its limit too. Space of files that were removed but are
still open or mapped is measured by the shim.

    free >= floor --> below the floor: no new sandboxes (they wait), and a sandbox that fills the disk is stopped

A worker can send the descriptor of a removed file to a socket that no process reads. Then no process shows the file,
and the sandbox seems small. So the gateway does not stop the largest sandbox below the floor, but

1. one that holds files whose size the shim cannot read, or
2. the one that has grown most since the disk had enough space, if it uses more than its equal share of the floor.

If neither exists, no sandbox is stopped: then something else fills the disk. The files of a stopped sandbox stay, so
the next sandbox is stopped only if the free space still falls by a part of the floor.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from muster.common.faults import Fault, NotFound
from muster.common.sizes import as_size
from muster.sandbox_gateway.providers.local.disk_use import used_bytes
from muster.shim.client import ProcessRecord, ShimClient

log = structlog.get_logger()

KEY_PREFIX = "sbx:"
"""The keys of all processes of sandboxes in the shim begin with this text and the id of the sandbox."""
LOOK_S = 1.0
MEASURE_S = 15.0
DU_S = 20.0
_LARGEST_STEP = 256 << 20
_PARTS = 8
"""Sandboxes are measured when the host has lost this part of the smallest limit."""
_MOST_UNMEASURED = 3
_AT_ONCE = 4
"""Most sandboxes that are measured at the same time."""
_UNCOUNTED = "its files could not be counted, because there are too many or its directories cannot be read"


def free_bytes(directory: Path) -> int:
    """Return the bytes that ordinary users may still write to the disk of a directory."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


@dataclass
class RunningSandbox:
    """The processes of one sandbox that run, and the limit of its files."""

    keys: list[str] = field(default_factory=list[str])
    limit: int | None = None
    deleted_bytes: int = 0
    """Space of removed files that processes have open or mapped."""
    hidden_files: bool = False
    """Whether its processes may hold removed files of unknown size."""


class DiskWatch:
    """The watch of one gateway over the directories of sandboxes below `root`."""

    def __init__(
        self,
        shim: ShimClient,
        root: Path,
        *,
        floor_bytes: int,
        du_s: float = DU_S,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._shim, self._root, self._floor, self._du_s, self._free = shim, root, floor_bytes, du_s, free
        self._free_before: int | None = None
        self._smallest: int | None = None
        self._due = 0.0
        self._unmeasured = dict[str, int]()
        self._low: str | None = None
        self._sizes_before: dict[str, int] | None = None
        """The sizes at the last measurement with enough free space, or at the last stop below the floor."""
        self._free_at_stop: int | None = None
        """The free space when a sandbox was last stopped below the floor."""
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def problem(self) -> str | None:
        """Return why no sandbox may be made at present, or None."""
        return self._low

    async def run(self) -> None:
        """Watch the disk again and again."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Read the free space once, measure the sandboxes if that is due, and stop those that use too much."""
        free = await asyncio.to_thread(self._free, self._root)
        low = free < self._floor
        self._low = (
            f"the disk of the gateway's host has only {as_size(free)} free, less than {as_size(self._floor)} "
            "(MUSTER_DISK_FLOOR_BYTES); remove files, or delete old sandboxes"
            if low
            else None
        )
        now, step = asyncio.get_running_loop().time(), min(_LARGEST_STEP, (self._smallest or _LARGEST_STEP) // _PARTS)
        lost = self._free_before is not None and self._free_before - free > step
        if now < self._due and not lost and not low:
            self._free_before = max(free, self._free_before or 0)
            return
        self._free_before = free
        await self._measure(free, low=low)
        self._due = asyncio.get_running_loop().time() + MEASURE_S

    async def _measure(self, free: int, *, low: bool) -> None:
        running = _running(await self._shim.list(KEY_PREFIX))
        self._smallest = min((sandbox.limit for sandbox in running.values() if sandbox.limit), default=None)
        self._unmeasured = {name: times for name, times in self._unmeasured.items() if name in running}
        sizes, reasons = dict[str, int](), dict[str, str]()
        for name, size in zip(running, await asyncio.gather(*map(self._used, running)), strict=True):
            if size is None:
                self._unmeasured[name] = self._unmeasured.get(name, 0) + 1
                if self._unmeasured[name] >= _MOST_UNMEASURED:
                    reasons[name] = _UNCOUNTED
                continue
            self._unmeasured.pop(name, None)
            sandbox, used = running[name], size + running[name].deleted_bytes
            if sandbox.limit is not None and used > sandbox.limit:
                more = f"its files use {as_size(used)}, more than {as_size(sandbox.limit)}"
                reasons[name] = f"{more} (resources.disk_bytes)"
            else:
                sizes[name] = used
        reasons |= self._filling(running, sizes, free, low=low)
        await asyncio.gather(*(self._stop(running[name], why) for name, why in reasons.items()))

    def _filling(
        self, running: Mapping[str, RunningSandbox], sizes: dict[str, int], free: int, *, low: bool
    ) -> Mapping[str, str]:
        """Return the sandbox that most probably fills the disk, and the reason, if the disk is below its floor."""
        if not low or self._sizes_before is None:
            self._sizes_before, self._free_at_stop = sizes, None
            return {}
        if self._free_at_stop is not None and self._free_at_stop - free <= self._floor // _PARTS:
            return {}
        chosen = self._chosen(running, sizes, self._sizes_before)
        if chosen:
            # The files of a stopped sandbox stay. Another one is stopped only if the disk still gets fuller.
            self._sizes_before, self._free_at_stop = sizes, free
        return chosen

    def _chosen(
        self, running: Mapping[str, RunningSandbox], sizes: Mapping[str, int], before: Mapping[str, int]
    ) -> Mapping[str, str]:
        hidden = [name for name in sizes if running[name].hidden_files]
        if hidden:
            chosen = max(hidden, key=lambda name: sizes[name])
            return {chosen: f"it holds removed files of unknown size, and {self._low}"}
        share = self._floor // max(1, len(sizes))
        growth = {name: size - before.get(name, 0) for name, size in sizes.items() if size > share}
        chosen = max(growth, key=lambda name: growth[name], default="")
        if not chosen or growth[chosen] <= 0:
            return {}
        grown = f"its files have grown most of all sandboxes, by {as_size(growth[chosen])}"
        return {chosen: f"{grown} to {as_size(sizes[chosen])}, and {self._low}"}

    async def _used(self, name: str) -> int | None:
        async with self._at_once:
            return await used_bytes(self._root / name, within_s=self._du_s)

    async def _stop(self, sandbox: RunningSandbox, why: str) -> None:
        for key in sandbox.keys:
            try:
                await self._shim.stop(key, 0.0, exceeded=f"over its limit of disk space: {why}")
            except NotFound:
                continue
            except Fault as fault:  # A sandbox that does not end must not keep the others from being stopped.
                log.warning("sandbox over its disk limit not stopped", key=key, error=str(fault))


def _running(records: Iterable[ProcessRecord]) -> dict[str, RunningSandbox]:
    """Return the sandboxes with a running process, by id."""
    found = dict[str, RunningSandbox]()
    for record in records:
        if record.state != "running":
            continue
        sandbox = found.setdefault(record.key.removeprefix(KEY_PREFIX).partition(":")[0], RunningSandbox())
        sandbox.keys.append(record.key)
        sandbox.deleted_bytes += record.deleted_bytes
        sandbox.hidden_files = sandbox.hidden_files or record.hidden_files
        if record.bounds and record.bounds.disk_bytes is not None:
            sandbox.limit = min(record.bounds.disk_bytes, sandbox.limit or record.bounds.disk_bytes)
    return found
