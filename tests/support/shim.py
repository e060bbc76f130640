"""Runs a real shim (the process that starts workers) for one test, and finds its processes."""

import asyncio
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

from muster.common.isolation_levels import IsolationLevel
from tests.support.eventually import eventually
from tests.support.prefork import Started, started


class ShimProcess:
    """A process `python -m muster.shim` with a directory whose path is short enough for unix sockets."""

    def __init__(
        self, level: IsolationLevel | str = "auto", least: str | None = None, before: Callable[[], None] | None = None
    ) -> None:
        self.level, self._least, self._before = level, least, before
        self.directory = Path(tempfile.mkdtemp(prefix="shim-"))
        self.socket = self.directory / "s"
        self.state = self.directory / "state"
        self.workspace = self.directory / "workspace"
        self.workspace.mkdir()
        self.process = self._started()

    def _started(self) -> Started:
        if self._before is None:
            return started("muster.shim", *self._arguments(), env=os.environ, stdin=subprocess.DEVNULL)
        return subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, preexec_fn=self._before)  # noqa: PLW1509

    def argv(self, *more: str) -> list[str]:
        return [sys.executable, "-m", "muster.shim", *self._arguments(), *more]

    def _arguments(self) -> list[str]:
        least = ["--at-least", self._least] if self._least else []
        return ["--socket", str(self.socket), "--state", str(self.state), "--isolation", self.level, *least]

    def kill(self) -> None:
        """Kill the shim with SIGKILL and wait until it has ended; its workers may still run."""
        self.process.kill()
        self.process.wait()

    def again(self) -> None:
        """Start a new shim process with the same state directory."""
        self.process = self._started()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(20)
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def running_shim(
    level: IsolationLevel | str = "auto", least: str | None = None, before: Callable[[], None] | None = None
) -> Generator[ShimProcess]:
    """Start a shim, yield it, and stop it at the end. The new process calls `before`."""
    shim = ShimProcess(level, least, before)
    try:
        yield shim
    finally:
        shim.close()


class Marked:
    """Finds processes by a unique number of seconds for which they sleep, also if they are in other namespaces."""

    def __init__(self) -> None:
        self.seconds = f"{9000 + secrets.randbelow(999)}.{secrets.randbelow(10**9):09d}"
        self.daemon = f"(setsid sleep {self.seconds} &) ; "

    def living(self) -> list[int]:
        found = list[int]()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if self.seconds in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found

    async def grown(self, count: int) -> list[int]:
        """Wait until exactly `count` marked processes run, and return their pids."""
        await eventually(lambda: len(self.living()) == count)
        return self.living()

    def gone_within(self, pids: list[int], seconds: float) -> bool:
        """Return whether the processes `pids` end within `seconds` and no marked process runs then."""
        return ended_within(pids, seconds) and not self.living()


def ended_within(pids: list[int], seconds: float) -> bool:
    """Wait until all `pids` have ended, also processes that are no children; return False after `seconds`."""
    due = time.monotonic() + seconds
    for pid in pids:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                if not select.select([pidfd], [], [], max(0.0, due - time.monotonic()))[0]:
                    return False
            finally:
                os.close(pidfd)
    return True


class Relay:
    """A proxy for the shim's unix socket, whose connections a test can cut."""

    def __init__(self, behind: Path) -> None:
        self._behind = behind
        self.path = behind.with_name("relay")
        self._transports = set[asyncio.WriteTransport]()

    async def __aenter__(self) -> Self:
        self._pumps = await asyncio.TaskGroup().__aenter__()
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.sever()
        await self._pumps.__aexit__(None, None, None)

    def sever(self) -> int:
        """Cut every connection; return the number of connections."""
        cut = list(self._transports)
        for transport in cut:
            transport.abort()
        return len(cut) // 2

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            shim_reader, shim_writer = await asyncio.open_unix_connection(self._behind)
        except OSError:
            writer.transport.abort()
            return
        self._pumps.create_task(self._pump(reader, shim_writer))
        self._pumps.create_task(self._pump(shim_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._transports.add(writer.transport)
        with suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
        self._transports.discard(writer.transport)
        writer.transport.abort()
