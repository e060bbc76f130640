"""One child process: it dies with its parent, writes to a log file, and its end can be awaited and bounded.

Spawning is synchronous and must happen on the main thread: the kernel sends the death signal when the *thread* that
forked ends. Waiting goes through a pidfd, so it belongs to no event loop in particular.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from muster.embedded.task_groups import raise_first_error

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: the child may not load libraries
BETWEEN_TRIES_S = 0.02


@dataclass(frozen=True, kw_only=True)
class ProcessCommand:
    """What to start, and how it ends."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: Path | None = None
    inherited: tuple[int, ...] = ()
    """File descriptors it keeps, under the same numbers."""
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends when the parent dies."""
    grace_s: float = 10.0
    become: Callable[[], None] = lambda: None
    """Runs in the child before exec: who it is to be."""


class ExitedError(Exception):
    """A process ended while it was being waited for to become ready."""

    def __init__(self, name: str, code: int, tail: str) -> None:
        super().__init__(f"{name} {ending(code)} before it was ready. Its last words:\n{tail}")
        self.name, self.code, self.tail = name, code, tail


class ManagedProcess:
    """A running child, from the moment it is made."""

    def __init__(self, command: ProcessCommand) -> None:
        self.command = command
        parent = os.getpid()

        def be_born() -> None:
            command.become()  # first: a change of identity clears the death signal
            if _libc.prctl(PR_SET_PDEATHSIG, int(command.death_signal)) or os.getppid() != parent:
                os._exit(127)

        with command.log.open("ab") as log:
            self._popen = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(command.env),
                cwd=command.cwd,
                pass_fds=command.inherited,
                start_new_session=True,
                preexec_fn=be_born,  # noqa: PLW1509 - nothing else can set a death signal; one thread spawns
            )

    @property
    def name(self) -> str:
        """The command's name."""
        return self.command.name

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """The exit code once its end was noticed, negative for a signal."""
        return self._popen.returncode

    async def exited(self) -> int:
        """Wait for its end; what is left of its process group goes with it."""
        if self._popen.returncode is None:
            await ended(self.pid)
            self._bury()
        return self._popen.returncode or 0

    async def stop(self) -> None:
        """Ask it to end, and after its grace make it."""
        if self._popen.returncode is not None:
            return
        self.signal(self.command.stop_signal)
        self.signal(signal.SIGCONT)  # one that was stopped could not hear the first
        try:
            async with asyncio.timeout(self.command.grace_s):
                await self.exited()
        except (TimeoutError, asyncio.CancelledError) as error:
            self.signal(signal.SIGKILL)
            await self.exited()
            if isinstance(error, asyncio.CancelledError):
                raise

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        if self._popen.returncode is None:
            os.kill(self.pid, number)

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        return tail(self.command.log, lines)

    async def until(self, is_so: Callable[[], Awaitable[bool]], *, deadline_s: float) -> None:
        """Ask `is_so` again and again until it is. Raises `ExitedError`, or `TimeoutError` with the log's end."""
        try:
            with raise_first_error():
                async with asyncio.timeout(deadline_s), asyncio.TaskGroup() as tasks:
                    watch = tasks.create_task(self._exits_early())
                    while not await is_so():  # noqa: ASYNC110 - another process's state sets no event of ours
                        await asyncio.sleep(BETWEEN_TRIES_S)
                    watch.cancel()
        except TimeoutError:
            raise TimeoutError(f"{self.name} was not ready after {deadline_s:g} s:\n{self.tail()}") from None

    async def _exits_early(self) -> None:
        raise ExitedError(self.name, await self.exited(), self.tail())

    def _bury(self) -> None:
        if self._popen.returncode is None:
            # The dead leader still holds its group's number, so this cannot reach a stranger.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()


async def ended(pid: int) -> None:
    """Return when the process `pid` has ended; at once if there is none."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, lambda: over.done() or over.set_result(None))
    try:
        await over
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def ending(code: int) -> str:
    """`exited with 1`, `was killed by SIGKILL`."""
    return f"exited with {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file, without reading all of it."""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - lines * 400))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    return ""
