"""Child processes of the stack: each writes to a log file, ends with its parent, and can be awaited and stopped.

The kernel sends the death signal when the *thread* that forked the child ends, so processes must be started in the main
thread. This module awaits the end of a process through a pidfd, which works in any event loop.
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
# The C library is loaded here, before any fork, because a forked child must not load libraries.
_libc = ctypes.CDLL(None, use_errno=True)
BETWEEN_TRIES_S = 0.02


@dataclass(frozen=True, kw_only=True)
class ProcessCommand:
    """The command line, environment and signals of a child process."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: Path | None = None
    inherited: tuple[int, ...] = ()
    """File descriptors that the process inherits with the same numbers."""
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    """The signal that the kernel sends to the process when its parent dies."""
    grace_s: float = 10.0
    """Seconds between the stop signal and SIGKILL."""
    become: Callable[[], None] = lambda: None
    """A function that the child calls before exec, to switch to another user."""


class ExitedError(Exception):
    """A child process ended before it was ready."""

    def __init__(self, name: str, code: int, tail: str) -> None:
        super().__init__(f"{name} {describe_exit(code)} before it was ready. The end of its log:\n{tail}")
        self.name, self.code, self.tail = name, code, tail


class ManagedProcess:
    """A child process, which the constructor starts."""

    def __init__(self, command: ProcessCommand) -> None:
        self.command = command
        parent = os.getpid()

        def prepare_child() -> None:
            # When a process changes its user, the kernel clears the death signal. So the user changes first.
            command.become()
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
                preexec_fn=prepare_child,  # noqa: PLW1509 - only this can set a death signal; only the main thread forks
            )

    @property
    def name(self) -> str:
        """The name of the process, for log records and error texts."""
        return self.command.name

    @property
    def pid(self) -> int:
        """The pid of the process."""
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """The exit code or the negative signal number; None until the end of the process was noticed."""
        return self._popen.returncode

    async def exited(self) -> int:
        """Wait until the process has ended, kill the rest of its process group, and return the exit code."""
        if self._popen.returncode is None:
            await wait_for_exit(self.pid)
            self._reap()
        return self._popen.returncode or 0

    async def stop(self) -> None:
        """Send the stop signal, and SIGKILL after the grace time; return when the process has ended."""
        if self._popen.returncode is not None:
            return
        self.signal(self.command.stop_signal)
        # A process that SIGSTOP has suspended handles the stop signal only after SIGCONT.
        self.signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(self.command.grace_s):
                await self.exited()
        except (TimeoutError, asyncio.CancelledError) as error:
            self.signal(signal.SIGKILL)
            await self.exited()
            if isinstance(error, asyncio.CancelledError):
                raise

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process if it has not ended."""
        if self._popen.returncode is None:
            os.kill(self.pid, number)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the process's log file."""
        return tail(self.command.log, lines)

    async def until(self, holds: Callable[[], Awaitable[bool]], *, deadline_s: float) -> None:
        """Call `holds` repeatedly until it returns True.

        Raises `ExitedError` if the process ends before `holds` returns True, and `TimeoutError` after `deadline_s`
        seconds.
        """
        try:
            with raise_first_error():
                async with asyncio.timeout(deadline_s), asyncio.TaskGroup() as tasks:
                    watch = tasks.create_task(self._exits_early())
                    while not await holds():  # noqa: ASYNC110 - the state of another process sets no asyncio event
                        await asyncio.sleep(BETWEEN_TRIES_S)
                    watch.cancel()
        except TimeoutError:
            raise TimeoutError(
                f"{self.name} was not ready after {deadline_s:g} s. The end of its log:\n{self.tail()}"
            ) from None

    async def _exits_early(self) -> None:
        raise ExitedError(self.name, await self.exited(), self.tail())

    def _reap(self) -> None:
        if self._popen.returncode is None:
            # The kernel does not reuse a pid before its process is reaped, so the signal reaches no other process
            # group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()


async def wait_for_exit(pid: int) -> None:
    """Return when the process `pid` has ended, or at once if the process does not exist."""
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


def describe_exit(code: int) -> str:
    """Return an exit code in words, for example "exited with 1" or "was killed by SIGKILL"."""
    return f"exited with {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log file without reading the whole file; an empty text if the file is missing."""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - lines * 400))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    return ""
