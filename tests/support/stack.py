"""Runs a real `muster up --ephemeral` for tests, and asserts at the end that none of its processes remains."""

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
    """Return the processes of a stack by pid: their command line, working directory or environment names the stack."""
    found: dict[int, str] = {}
    place = os.fsencode(data_dir.resolve())
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # The process has ended meanwhile.
            words = (entry / "cmdline").read_bytes()
            if not words:  # The process is a zombie or a kernel thread.
                continue
            if place in words or _works_in(entry, place) or _is_marked(entry, marker):
                found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace")[:200]
    return found


def _works_in(entry: Path, place: bytes) -> bool:
    with contextlib.suppress(PermissionError):  # The process hides its memory, and the test does not run as root.
        return os.fsencode((entry / "cwd").readlink()).startswith(place)
    return False


def _is_marked(entry: Path, marker: str) -> bool:
    with contextlib.suppress(PermissionError):
        return bool(marker) and f"{MARKER}={marker}".encode() in (entry / "environ").read_bytes().split(b"\0")
    return False


@dataclass
class RunningStack:
    """A running stack: its directory, its ready file and its process."""

    data_dir: Path
    ready_file: Path
    process: subprocess.Popen[bytes]

    @property
    def ready(self) -> Ready:
        """The present content of `ready.json`."""
        ready = read_ready(self.ready_file)
        if ready is None:
            raise AssertionError(f"the stack has ended:\n{self.log()}")
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
        """Path of the administrator's NATS credentials, for `open_bus`."""
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
        """Return the last lines of a process's log."""
        return tail(self.data_dir / "logs" / f"{name}.log" if name != "up" else self.data_dir.parent / "up.log", lines)

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL, *, wait_s: float = 30.0) -> int:
        """Send a signal that ends a process of the stack; return the pid of the process that replaces it."""
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
    """Run `muster up` below `home`; stop it at the end of the block and assert that no process remains."""
    data, ready_file, marker = home / "muster", home / "ready.json", new_id("req")
    reading, writing = os.pipe()
    told = ("--data", str(data), "--ready-file", str(ready_file), "--ready-fd", str(writing))
    with (home / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *muster, *arguments, *told, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "MUSTER_PRELOAD": "", **(env or {}), MARKER: marker},
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
        assert not left, f"processes of the stack still run: {left}"
        refused = _refused(data)
        assert not refused, f"NATS refused a subject that a service's role does not allow: {refused}"


def _refused(data: Path) -> list[str]:
    """Return log lines about subjects that NATS refused to a service: the table of roles or the service is wrong."""
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
    """Return processes that still run after the stack's end; processes that the kernel kills need a short time."""
    with contextlib.suppress(AssertionError):
        await eventually(lambda: processes_of(data, marker), operator.not_, within_s=GONE_S)
    return processes_of(data, marker)


async def _first_bytes(descriptor: int) -> bytes:
    """Return the first bytes that arrive in a pipe; no bytes if the other end is closed first."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[bytes] = loop.create_future()
    loop.add_reader(descriptor, lambda: first.done() or first.set_result(os.read(descriptor, 1 << 16)))
    try:
        return await first
    finally:
        loop.remove_reader(descriptor)
