"""A session: one shell that runs one command after the other, and what each command printed.

As in Daytona's daemon, a command is a file that the shell of the session reads (`. file`). A command waits for the one
before it. `exit N` ends the shell itself, so the exit code of that command is never reported, and later commands never
start. The exit code is reported when every process that has the command's output open has closed it; a process in the
background therefore delays it.
"""

import asyncio
import os
import shlex
import signal
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from muster.daytona_double.processes import group_is_alive, signal_group
from muster.daytona_double.refusals import daemon

STDOUT, STDERR = b"\x01\x01\x01", b"\x02\x02\x02"
"""What precedes the lines of each stream in a followed log."""
END_WITHIN_S = 2.0
"""How long a deleted session has to end after SIGTERM, before SIGKILL."""
_POLL_S = 0.02


@dataclass
class ShellCommand:
    """A command of a session, with its output so far."""

    id: str
    text: str
    log: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    """The stream's prefix and the bytes of each piece of output."""
    exit_code: int | None = None
    silent: bool = False
    """Whether the exit code is kept back, which the fault `no-exit-code` does."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Is set when the command reports no more: it has ended, or the shell has."""
    _grew: asyncio.Event = field(default_factory=asyncio.Event)

    def output(self, *streams: bytes) -> str:
        """Return what the command printed on these streams so far."""
        return b"".join(piece for stream, piece in self.log if stream in streams).decode(errors="replace")

    def add(self, stream: bytes, piece: bytes) -> None:
        """Add a piece of output and wake those that follow the log."""
        self.log.append((stream, piece))
        self.wake()

    def wake(self) -> None:
        """Wake those that follow the log."""
        self._grew.set()
        self._grew = asyncio.Event()

    async def wait_after(self, count: int) -> None:
        """Return when the log has more than `count` pieces, or when the command has ended."""
        while len(self.log) <= count and not self.ended.is_set():
            await self._grew.wait()


@dataclass
class _Pipe:
    """The reading end of a named pipe."""

    path: Path
    fd: int

    def close(self) -> None:
        os.close(self.fd)
        self.path.unlink(missing_ok=True)


def _pipe(path: Path, flags: int = os.O_RDONLY) -> _Pipe:
    os.mkfifo(path)
    return _Pipe(path, os.open(path, flags | os.O_NONBLOCK))


class SessionShell:
    """The shell of a session and the commands that it ran, runs and will run."""

    def __init__(self, session_id: str, directory: Path) -> None:
        self.session_id = session_id
        self.commands: dict[str, ShellCommand] = {}
        self._directory = directory
        self._waiting: deque[tuple[ShellCommand, bool]] = deque()
        self._running: ShellCommand | None = None
        self._open: dict[bytes, _Pipe] = {}
        self._reported: int | None = None
        self._input: _Pipe | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._status: _Pipe | None = None

    async def start(self, *, workdir: Path, environment: Mapping[str, str]) -> None:
        """Start the shell in `workdir`."""
        self._directory.mkdir(parents=True)
        self._status = _pipe(self._directory / "status.pipe", os.O_RDWR)
        self._process = await asyncio.create_subprocess_exec(
            "/bin/bash",
            cwd=workdir,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        asyncio.get_running_loop().add_reader(self._status.fd, self._read_status)

    @property
    def ended(self) -> bool:
        """Whether the shell has ended."""
        return self._process is None or self._process.returncode is not None

    async def wait(self) -> None:
        """Wait until the shell ends. Then no command of the session reports anything more."""
        assert self._process
        assert self._process.stdin
        await self._process.wait()
        self._close()
        self._process.stdin.close()
        with suppress(OSError):
            await self._process.stdin.wait_closed()

    def run(self, command_id: str, text: str, *, keep_input: bool, silent: bool = False) -> ShellCommand:
        """Run a command after those that the session already has.

        With `keep_input` the command's standard input stays open for `send_input`; else it is empty. With `silent` the
        exit code is kept back. Raises `Refusal` (410) if the shell has ended.
        """
        if self.ended:
            raise daemon(410, "session has ended", "SESSION_ENDED")
        command = self.commands[command_id] = ShellCommand(command_id, text, silent=silent)
        self._waiting.append((command, keep_input))
        self._start_next()
        return command

    def send_input(self, command: ShellCommand, text: str) -> None:
        """Write to the standard input of the running command. Raises `Refusal` if the command does not run."""
        if command is not self._running or self._input is None:
            raise daemon(410, "command has already completed", "COMMAND_ALREADY_COMPLETED")
        with suppress(BlockingIOError):
            os.write(self._input.fd, text.encode())

    async def delete(self) -> None:
        """End the shell and what it started: SIGTERM first, and SIGKILL after `END_WITHIN_S` seconds."""
        assert self._process
        if not self.ended or group_is_alive(self._process.pid):
            signal_group(self._process.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(END_WITHIN_S):
                    while group_is_alive(self._process.pid):  # noqa: ASYNC110 - the kernel has no event for this
                        await asyncio.sleep(_POLL_S)
            signal_group(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._close()

    def _start_next(self) -> None:
        if self._running is not None or not self._waiting or self.ended:
            return
        command, keep_input = self._waiting.popleft()
        self._running, self._reported = command, None
        directory = self._directory / command.id
        directory.mkdir()
        (directory / "cmd.sh").write_text(command.text + "\n")
        self._input = _pipe(directory / "stdin.pipe", os.O_RDWR) if keep_input else None
        loop = asyncio.get_running_loop()
        for stream, name in ((STDOUT, "stdout.pipe"), (STDERR, "stderr.pipe")):
            self._open[stream] = _pipe(directory / name)
            loop.add_reader(self._open[stream].fd, self._read_output, command, stream)
        paths = [directory / "cmd.sh", self._input.path if self._input else Path("/dev/null")]
        paths += [self._open[STDOUT].path, self._open[STDERR].path, self._directory / "status.pipe"]
        script, stdin, stdout, stderr, status = (shlex.quote(str(path)) for path in paths)
        line = f"{{ . {script}; }} < {stdin} > {stdout} 2> {stderr}; echo $? > {status}\n"
        assert self._process
        assert self._process.stdin
        self._process.stdin.write(line.encode())

    def _read_output(self, command: ShellCommand, stream: bytes) -> None:
        with suppress(BlockingIOError):
            while piece := os.read(self._open[stream].fd, 65_536):
                command.add(stream, piece)
            # Nothing can write to the pipe any more.
            self._stop_reading(stream)
            self._finish()

    def _stop_reading(self, stream: bytes) -> None:
        pipe = self._open.pop(stream)
        asyncio.get_running_loop().remove_reader(pipe.fd)
        pipe.close()

    def _read_status(self) -> None:
        assert self._status
        with suppress(BlockingIOError):
            self._reported = int(os.read(self._status.fd, 64))
            self._finish()

    def _finish(self) -> None:
        if self._reported is None or self._open or self._running is None:
            return
        command, self._running = self._running, None
        if self._input:
            self._input.close()
            self._input = None
        command.exit_code = None if command.silent else self._reported
        command.ended.set()
        command.wake()
        self._start_next()

    def _close(self) -> None:
        """Read what is left, and report the end of the shell to those that wait for a command."""
        if self._status is None:
            return
        for stream in tuple(self._open):
            if self._running:
                self._read_output(self._running, stream)
        for stream in tuple(self._open):
            self._stop_reading(stream)
        if self._input:
            self._input.close()
        asyncio.get_running_loop().remove_reader(self._status.fd)
        self._status.close()
        self._status = None
        for command in self.commands.values():
            command.ended.set()
            command.wake()
