"""Processes of services and commands, forked from one process that has imported them: a start costs no imports.

`started("muster.management_api", …)` is `python -m muster.management_api`, and returns what `subprocess.Popen` would.
Each pytest process (each worker of pytest-xdist) has one fork server (`tests/support/fork_server.py`), started when
first asked:

    pytest ── control socket ──▶ fork server ── fork ──▶ the process
       ▲                               │
       └──── news socket: its pid and a pidfd, then its exit code

A request is one message: what to run and, by SCM_RIGHTS, the file descriptors. The server imports a service (or all
commands) when the first process of it is asked for, freezes all that for the garbage collector, and forks. The child
takes over the environment, the directory, the descriptors (all others are closed), the arguments and the default
signals; then `runpy` runs the `__main__`, and the interpreter ends it: exit codes, tracebacks and `atexit` are Python's
own. The server waits for the pidfds of its children, and tells an exit code as the last message of the news socket,
where it stays for any thread to read.

The child is not an `exec`: /proc/PID/cmdline and /proc/PID/environ are the server's, and so are settings of the
interpreter itself (`PYTHON…`). A test that looks there starts a real one. So does everything while coverage measures,
or with `MUSTER_TEST_SPAWN=1`.
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
    """A process of the fork server, as `subprocess.Popen` shows its own."""

    def __init__(self, module: str, pid: int, pidfd: int, news: socket.socket) -> None:
        self.args, self.pid = ["-m", module], pid
        self.returncode: int | None = None
        self._pidfd, self._news = pidfd, news.detach()  # a socket complains if the collector finds it before us

    def poll(self) -> int | None:
        return self._heard(0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._heard(timeout)) is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Through the pidfd: never to another process that has the pid by now."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _heard(self, timeout: float | None) -> int | None:
        """Look at the exit code and leave it there: another thread may be waiting for it too."""
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
            raise RuntimeError(f"the fork server ended before its process {self.pid}")
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
    """`python -m module arguments`, started; a stream that is None is inherited, as with `subprocess.Popen`."""
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
        raise RuntimeError(f"the fork server ended instead of starting {order.module}: its stderr says why")
    os.set_inheritable(pidfds[0], False)
    return Preforked(order.module, int(told), pidfds[0], news)


class _Server:
    """The fork server of this process."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._control: socket.socket | None = None

    def control(self) -> socket.socket:
        """Its control socket; the first who asks starts it."""
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
