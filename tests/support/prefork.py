"""Starts services and commands by a fork of a process that has already imported them, so that a start is fast.

`started("muster.management_api", …)` runs `python -m muster.management_api` and returns an object like a `Popen`. Each
pytest process (each worker of pytest-xdist) has one fork server (`tests/support/fork_server.py`), which the first call
starts:

    pytest ── control socket ──▶ fork server ── fork ──▶ the process
       ▲                               │
       └──── news socket: its pid and a pidfd, then its exit code

A request is one message with the program and, by SCM_RIGHTS, its file descriptors. At the first request for a service
(or for a command) the server imports its modules and freezes them for the garbage collector. Then the server forks. The
child sets its environment, directory, descriptors (all others are closed), arguments and signals as requested, and
`runpy` runs the `__main__` module. The child ends as any Python process does, with exit code, tracebacks and `atexit`.
The server waits for the pidfds of its children and sends each exit code as the last message of the news socket. The
message stays in the socket, so that any thread can read it.

The child is not started by `exec`, so /proc/PID/cmdline, /proc/PID/environ and the interpreter's own settings
(`PYTHON…`) are those of the server. A test that reads these starts a real process. With coverage or with
`MUSTER_TEST_SPAWN=1`, all processes are real ones.
"""

import atexit
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from tests.support.fork_server import Order

_REPOSITORY = Path(__file__).parents[2]


class Preforked:
    """A child of the fork server, with the methods of `subprocess.Popen`."""

    def __init__(self, module: str, pid: int, pidfd: int, news: socket.socket) -> None:
        self.args, self.pid = ["-m", module], pid
        self.returncode: int | None = None
        self._pidfd, self._news = pidfd, news.detach()  # An open `socket` object would warn at its deletion.

    def poll(self) -> int | None:
        return self._heard(0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._heard(timeout)) is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal through the pidfd, so that it never reaches a later process with the same pid."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _heard(self, timeout: float | None) -> int | None:
        """Wait for the exit code without removing it from the socket, because another thread may wait for it too."""
        if self.returncode is None:
            ready = select.poll()
            ready.register(self._news, select.POLLIN)
            if ready.poll(None if timeout is None else math.ceil(timeout * 1000)):
                self.returncode = self._told()
        return self.returncode

    def _told(self) -> int:
        news = socket.socket(fileno=self._news)
        try:
            told = news.recv(64, socket.MSG_PEEK)
        finally:
            news.detach()
        if not told:
            raise RuntimeError(f"the fork server ended before its child {self.pid}, so the exit code is unknown")
        return int(told)

    def __del__(self) -> None:
        os.close(self._news)
        os.close(self._pidfd)


type Started = Preforked | subprocess.Popen[bytes]
type Stream = int | IO[Any] | None


def started(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    pass_fds: Iterable[int] = (),
) -> Started:
    """Start `python -m module arguments`; a stream that is None is inherited, as with `subprocess.Popen`."""
    if "MUSTER_TEST_SPAWN" in os.environ or any(name.startswith("COVERAGE") for name in os.environ):
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, env=env, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=tuple(pass_fds))
    with ExitStack() as opened:
        streams = [_fileno(stream, number, opened) for number, stream in enumerate((stdin, stdout, stderr))]
        fds = dict(enumerate(streams)) | {fd: fd for fd in pass_fds}
        order = Order(module, arguments, dict(env), str(Path.cwd()), list(fds))
        return _ask(order, list(fds.values()))


def _fileno(stream: Stream, inherited: int, opened: ExitStack) -> int:
    if stream == subprocess.DEVNULL:
        return opened.enter_context(Path(os.devnull).open("r+b", buffering=0)).fileno()
    return inherited if stream is None else stream if isinstance(stream, int) else stream.fileno()


def _ask(order: Order, fds: list[int]) -> Preforked:
    news, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        socket.send_fds(_server.control(), [json.dumps(order).encode()], [theirs.fileno(), *fds])
    told, pidfds, *_ = socket.recv_fds(news, 64, 1)
    if not told:
        news.close()
        raise RuntimeError(f"the fork server ended and did not start {order.module}; its stderr contains the cause")
    os.set_inheritable(pidfds[0], False)
    return Preforked(order.module, int(told), pidfds[0], news)


class _Server:
    """The fork server of this pytest process."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._control: socket.socket | None = None

    def control(self) -> socket.socket:
        """Return the control socket of the fork server; the first call starts the server."""
        with self._starting:
            if self._control is None:
                self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    command = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())]
                    running = subprocess.Popen(
                        command,
                        cwd=_REPOSITORY,
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )
                atexit.register(_end, self._control, running)
            return self._control


def _end(control: socket.socket, running: subprocess.Popen[bytes]) -> None:
    control.close()
    running.wait()


_server = _Server()
