"""A real `muster up --ephemeral` for tests, in a process of its own, and the proof that nothing of it is left."""

import asyncio
import contextlib
import operator
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from muster.common.ids import new_id
from muster.embedded.processes import tail, wait_for_exit
from muster.embedded.ready import Ready, read_ready
from tests.support.eventually import eventually
from tests.support.patience import GONE_S

MARKER = "MUSTER_STACK_ID"
UP_DEADLINE_S = 60.0
DOWN_DEADLINE_S = 30.0
VIOLATION = "permissions violation"


def processes_of(data_dir: Path, marker: str = "") -> dict[int, str]:
    """Living processes of a stack, by pid: they name its data directory, work in it, or carry its marker."""
    found: dict[int, str] = {}
    place = os.fsencode(data_dir.resolve())
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile
            words = (entry / "cmdline").read_bytes()
            if not words:  # a zombie, or the kernel's own
                continue
            if place in words or _works_in(entry, place) or _is_marked(entry, marker):
                found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace")[:200]
    return found


def _works_in(entry: Path, place: bytes) -> bool:
    with contextlib.suppress(PermissionError):  # it hides itself, and we are not root
        return os.fsencode((entry / "cwd").readlink()).startswith(place)
    return False


def _is_marked(entry: Path, marker: str) -> bool:
    with contextlib.suppress(PermissionError):
        return bool(marker) and f"{MARKER}={marker}".encode() in (entry / "environ").read_bytes().split(b"\0")
    return False


@dataclass
class RunningStack:
    """A stack that is up."""

    data_dir: Path
    ready_file: Path
    process: subprocess.Popen[bytes]

    @property
    def ready(self) -> Ready:
        """What `ready.json` says now."""
        ready = read_ready(self.ready_file)
        if ready is None:
            raise AssertionError(f"the stack is gone:\n{self.log()}")
        return ready

    @property
    def api_url(self) -> str:
        return self.ready.api_url

    @property
    def gateway_url(self) -> str:
        return self.ready.gateway_url

    @property
    def nats_url(self) -> str:
        return self.ready.nats_url

    @property
    def nats_credentials(self) -> Path | None:
        """Of someone who may do everything there; for `open_bus`."""
        return self.ready.credentials_file

    @property
    def database_url(self) -> str:
        return self.ready.database_url

    @property
    def admin_key(self) -> str:
        return self.ready.admin_key

    @property
    def pids(self) -> dict[str, int]:
        return self.ready.pids

    def log(self, name: str = "up", lines: int = 60) -> str:
        """The end of a part's log."""
        return tail(self.data_dir / "logs" / f"{name}.log" if name != "up" else self.data_dir.parent / "up.log", lines)

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL, *, wait_s: float = 30.0) -> int:
        """Send a part a signal that ends it, and return its new pid when it was spawned again."""
        before = self.pids[name]
        os.kill(before, number)
        await eventually(lambda: self.pids.get(name) != before, within_s=wait_s)
        return self.pids[name]


@asynccontextmanager
async def running_stack(
    home: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    arguments: Sequence[str] = ("up", "--ephemeral"),
    muster: Sequence[str] = ("-m", "muster.cli"),
) -> AsyncGenerator[RunningStack]:
    """`muster up` below `home` until the end of the block; then it is stopped, and nothing of it may be left."""
    data, ready_file, marker = home / "muster", home / "ready.json", new_id("req")
    reading, writing = os.pipe()
    told = ("--data", str(data), "--ready-file", str(ready_file), "--ready-fd", str(writing))
    with (home / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *muster, *arguments, *told, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {}), MARKER: marker},
            pass_fds=(writing,),
        )
    os.close(writing)
    stack = RunningStack(data, ready_file, process)
    try:
        async with asyncio.timeout(UP_DEADLINE_S):
            said = await _first_bytes(reading)
        assert said, f"muster up ended before it was ready:\n{stack.log()}"
        yield stack
    finally:
        os.close(reading)
        await _stop(process)
        left = await _remaining(data, marker)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"left behind: {left}"
        refused = _refused(data)
        assert not refused, f"a service wants to say or hear what its role may not: {refused}"


def _refused(data: Path) -> list[str]:
    """What NATS refused our own services: a subject that is missing in the table of roles, or should not be used."""
    logs = sorted((data / "logs").glob("*.log"))
    return [line for log in logs for line in log.read_text(errors="replace").splitlines() if VIOLATION in line]


async def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            async with asyncio.timeout(DOWN_DEADLINE_S):
                await wait_for_exit(process.pid)
        finally:
            process.kill()
    process.wait()


async def _remaining(data: Path, marker: str) -> dict[int, str]:
    """What still lives a moment after the stack ended: what only the kernel tells to die needs that moment."""
    with contextlib.suppress(AssertionError):
        await eventually(lambda: processes_of(data, marker), operator.not_, within_s=GONE_S)
    return processes_of(data, marker)


async def _first_bytes(descriptor: int) -> bytes:
    """What is written to a pipe first; nothing when its other end is closed before."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[bytes] = loop.create_future()
    loop.add_reader(descriptor, lambda: first.done() or first.set_result(os.read(descriptor, 1 << 16)))
    try:
        return await first
    finally:
        loop.remove_reader(descriptor)
