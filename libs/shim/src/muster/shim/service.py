"""The composition root: opens the state directory and the socket, wires roster and server, stops in reverse."""

import argparse
import asyncio
import ctypes
import fcntl
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from muster.common.clock import utc_now
from muster.common.faults import InvalidMessage
from muster.common.secrecy import hide_from_other_processes
from muster.shim.isolation import IsolationMissing, IsolationSelector
from muster.shim.protocol import MAX_LINE_BYTES, checked_socket_path
from muster.shim.server import ShimServer
from muster.shim.worker_table import WorkerTable

GRACE_S = 5.0
_PR_SET_CHILD_SUBREAPER = 36


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser("python -m muster.shim", description="Starts, isolates and keeps local workers.")
    parser.add_argument("--socket", required=True, type=Path, help="unix socket to answer on; made with mode 0600")
    parser.add_argument("--state", required=True, type=Path, help="directory for outputs and exit records")
    parser.add_argument("--isolation", choices=("auto", "bubblewrap", "plain"), default="auto")
    parser.add_argument("--parent-watch", type=int, metavar="PID", help="kill everything when this parent is gone")
    return parser.parse_args()


def main(options: argparse.Namespace) -> int:
    """Run until told to stop; the exit status."""
    hide_from_other_processes()  # a plain worker could take its sockets and speak as its keepers
    try:
        path = checked_socket_path(options.socket)
        options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = options.state.resolve()
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ladder = IsolationSelector.probed(options.isolation, state)
    except BlockingIOError:
        return _refuse(f"another shim has the state directory {options.state}")
    except (InvalidMessage, IsolationMissing, OSError) as error:
        return _refuse(str(error))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # three descriptors per worker
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return asyncio.run(_run(path, state, ladder, options.parent_watch))


async def _run(path: str, state: Path, ladder: IsolationSelector, parent: int | None) -> int:
    loop = asyncio.get_running_loop()
    told_to_stop, orphaned = asyncio.Event(), asyncio.Event()
    roster = WorkerTable(ladder, state, utc_now)
    loop.add_signal_handler(signal.SIGCHLD, roster.reap)
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, told_to_stop.set)
    if parent is not None:
        _watch(parent, orphaned, told_to_stop)
    server = ShimServer(roster, ladder.isolation, _say)
    listening = await asyncio.start_unix_server(server.serve, sock=_bound(path), limit=MAX_LINE_BYTES)
    await told_to_stop.wait()
    await roster.close(0 if orphaned.is_set() else GRACE_S, "shim")
    listening.close()
    _unbind(path)
    server.close()
    await listening.wait_closed()
    return 0


def _bound(path: str) -> socket.socket:
    """A socket only we may connect to, from its first moment on. The lock on the state says no other shim is there."""
    _unbind(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    masked = os.umask(0o177)
    try:
        made.bind(path)
    finally:
        os.umask(masked)
    return made


def _unbind(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _watch(parent: int, orphaned: asyncio.Event, told_to_stop: asyncio.Event) -> None:
    """Stop at once when `parent` is gone, also when it went before we looked."""

    def gone() -> None:
        loop.remove_reader(pidfd)
        orphaned.set()
        told_to_stop.set()

    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(parent)
    except ProcessLookupError:
        pidfd = os.open(os.devnull, os.O_RDONLY)
    if os.getppid() != parent:
        orphaned.set()
        told_to_stop.set()
        return
    loop.add_reader(pidfd, gone)


def _refuse(why: str) -> int:
    _say(why)
    return 2


def _say(words: str) -> None:
    sys.stderr.write(f"muster.shim: {words}\n")
    sys.stderr.flush()
