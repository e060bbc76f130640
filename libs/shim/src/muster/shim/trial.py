"""Tries an isolation level: runs a program in it that attempts what the level forbids, and what every worker needs."""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from muster.common.isolation_levels import IsolationLevel
from muster.shim.host_paths import FLAGS, PYTHON
from muster.shim.keeper import KeeperOrder
from muster.shim.keeper_channel import spawn
from muster.shim.protocol import LaunchRequest

_TRIAL_S = 10.0
_LOWEST_PID = 64
"""A lower pid of the shim may also be that of a process in the worker's namespace."""
_CONTAINED = "contained"
_FORBIDDEN: dict[IsolationLevel, tuple[str, ...]] = {
    "bubblewrap": ("file", "signal", "network"),
    "landlock": ("file", "network", "datagram"),
    "pid-namespace": ("signal", "network"),
    "plain": (),
}
_PROGRAM = """
import _socket, os, sys
secret, port, pid, *forbidden = sys.argv[1:]
def connect(to):
    with_socket = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    with_socket.connect(("127.0.0.1", to))
attempts = {
    "file": lambda: os.open(secret, os.O_RDONLY),
    "signal": lambda: os.kill(int(pid), 0),
    "network": lambda: connect(int(port)),
    "datagram": lambda: _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM),
}
os.close(os.open("own", os.O_WRONLY | os.O_CREAT, 0o600))
server = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
server.bind(("127.0.0.1", 0))
server.listen(1)
connect(server.getsockname()[1])
escaped = []
for name in forbidden:
    try:
        attempts[name]()
    except OSError:
        continue
    escaped.append(name)
print(", ".join(escaped) or "contained")
"""


def problem(level: IsolationLevel, state: Path, argv_of: Callable[[LaunchRequest], list[str]]) -> str:
    """Run the trial of a level. Return what does not work, or an empty string.

    `argv_of` returns the command line that starts the keeper of a launch.
    """
    own, secret = state / "trial", state / "trial-secret"
    own.mkdir(mode=0o700, exist_ok=True)
    secret.touch(mode=0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        facts = [str(secret), str(server.getsockname()[1]), str(os.getpid()), *_forbidden(level)]
        argv = [PYTHON, *FLAGS, "-c", _PROGRAM, *facts]
        launch = LaunchRequest(id=0, key="trial", argv=argv, cwd=str(own), writable=[str(own)])
        try:
            printed = _run(argv_of(launch), launch)
        except (OSError, TimeoutError) as error:
            return str(error)
    if printed == _CONTAINED:
        return ""
    escapes = set(printed.split(", "))
    if escapes <= set(_FORBIDDEN[level]):
        return f"it does not prevent: {printed}"
    return printed.rpartition("\n")[2] or "the trial process printed nothing"


def _forbidden(level: IsolationLevel) -> Iterator[str]:
    for name in _FORBIDDEN[level]:
        if name != "signal" or os.getpid() >= _LOWEST_PID:
            yield name


def _run(argv: list[str], launch: LaunchRequest) -> str:
    """Run a worker to its end, and return its output. Raises `TimeoutError`."""
    order = KeeperOrder(os.fsencode(launch.cwd), [os.fsencode(argument) for argument in launch.argv], [], {})
    with ExitStack() as opened:
        ours, keepers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ready, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, keepers, ready, workers):
            opened.enter_context(end)
        output, told = os.memfd_create("output"), os.memfd_create("order")
        for descriptor in (output, told):
            opened.callback(os.close, descriptor)
        os.write(told, order.encode())
        pid = spawn(argv, [keepers.fileno(), output, output, told, workers.fileno()])
        keepers.close()
        with suppress(OSError):  # A keeper that could not be started has printed the reason.
            ours.send(b"go")
        _await_end(pid)
        return os.pread(output, 1 << 16, 0).decode(errors="replace").strip()


def _await_end(pid: int) -> None:
    """Wait until a child has ended. Kill it after 10 s, and raise `TimeoutError`."""
    process, due = os.pidfd_open(pid), time.monotonic() + _TRIAL_S
    try:
        ended = bool(select.select([process], [], [], max(due - time.monotonic(), 0))[0])
        if not ended:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(process)
    if not ended:
        raise TimeoutError(f"the trial process did not end within {_TRIAL_S:g} s")
