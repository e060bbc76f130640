"""The shim's main function: locks the state directory, opens the socket, runs the server, and stops all workers.

The shim owns the lock on `DIR/lock` until its process dies, so two shims never share a state directory.
"""

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

from msgspec.structs import replace

from muster.common.clock import utc_now
from muster.common.faults import InvalidMessage
from muster.common.isolation_levels import LEVELS
from muster.common.process_hardening import hide_from_other_processes
from muster.shim.fork_isolation import ForkCommands
from muster.shim.fork_parents import ForkParents
from muster.shim.isolation import IsolationMissing, IsolationSelector
from muster.shim.keyrings import leave_session_keyring
from muster.shim.limit_enforcer import LimitEnforcer
from muster.shim.limit_watch import LimitWatch
from muster.shim.protocol import MAX_LINE_BYTES, checked_socket_path
from muster.shim.server import ShimServer
from muster.shim.shim_files import compiled
from muster.shim.worker_table import WorkerTable

GRACE_S = 5.0
_PR_SET_CHILD_SUBREAPER = 36


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser("python -m muster.shim", description="Start and isolate local worker processes.")
    parser.add_argument(
        "--socket", required=True, type=Path, help="Create the unix socket of the shim at this path, with mode 0600"
    )
    parser.add_argument(
        "--state", required=True, type=Path, help="Keep the workers' output and exit records in this directory"
    )
    parser.add_argument("--isolation", choices=("auto", *LEVELS), default="auto")
    parser.add_argument(
        "--at-least",
        choices=LEVELS,
        default=os.environ.get("MUSTER_ISOLATION_AT_LEAST") or None,
        help="Refuse to start below this level [MUSTER_ISOLATION_AT_LEAST]; the default is that of --isolation",
    )
    parser.add_argument(
        "--parent-watch", type=int, metavar="PID", help="Kill all workers when this parent process has ended"
    )
    options = parser.parse_args()
    if options.at_least not in (None, *LEVELS):  # The parser does not check a default.
        parser.error(f"MUSTER_ISOLATION_AT_LEAST={options.at_least} is no level; choose one of: {', '.join(LEVELS)}")
    return options


def main(options: argparse.Namespace) -> int:
    """Run the shim until SIGTERM or SIGINT. Return the exit code, which is 2 if the shim cannot start."""
    hide_from_other_processes()  # A worker without isolation could copy the shim's sockets and pose as a keeper.
    leave_session_keyring()
    try:
        path = checked_socket_path(options.socket)
        options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = options.state.resolve()
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        isolation = IsolationSelector.probed(options.isolation, state, options.at_least)
        limits = LimitEnforcer.opened(state, compiled("pid_limiter", state))
    except BlockingIOError:
        return _refuse(f"another shim has the state directory {options.state}; choose another one with --state")
    except (InvalidMessage, IsolationMissing, OSError) as error:
        return _refuse(str(error))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # The shim needs three open files per worker.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return asyncio.run(_run(path, state, isolation, limits, options.parent_watch))


async def _run(path: str, state: Path, isolation: IsolationSelector, limits: LimitEnforcer, parent: int | None) -> int:
    stop_requested, orphaned = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, stop_requested.set)
    if parent is not None:
        _watch(parent, orphaned, stop_requested)
    commands = ForkCommands.of(isolation, state)
    cannot_fork = await asyncio.to_thread(commands.problem)
    async with asyncio.TaskGroup() as tasks:
        parents = ForkParents(commands, state, cannot_fork)
        table = WorkerTable(isolation, limits, parents, state, utc_now, tasks)
        loop.add_signal_handler(signal.SIGCHLD, table.reap)
        watching = tasks.create_task(LimitWatch(table.running, limits, parents.close_unused).run())
        probed = replace(isolation.isolation, cannot_fork=cannot_fork, limits=limits.mechanism, limits_why=limits.why)
        server = ShimServer(table, probed, _print_error)
        listening = await asyncio.start_unix_server(server.serve, sock=_bind(path), limit=MAX_LINE_BYTES)
        await stop_requested.wait()
        await table.close(0 if orphaned.is_set() else GRACE_S, "shim")
        watching.cancel()
        listening.close()
        _unbind(path)
        server.close()
        await listening.wait_closed()
    return 0


def _bind(path: str) -> socket.socket:
    """Return a socket that only this user may connect to.

    An old socket file is replaced. No other shim can use the old file, because this shim has the lock.
    """
    _unbind(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    masked = os.umask(0o177)
    try:
        bound.bind(path)
    finally:
        os.umask(masked)
    return bound


def _unbind(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _watch(parent: int, orphaned: asyncio.Event, stop_requested: asyncio.Event) -> None:
    """Set `orphaned` and `stop_requested` when the process `parent` ends, even if it ended before this call."""

    def parent_ended() -> None:
        loop.remove_reader(pidfd)
        orphaned.set()
        stop_requested.set()

    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(parent)
    except ProcessLookupError:
        pidfd = os.open(os.devnull, os.O_RDONLY)
    if os.getppid() != parent:
        orphaned.set()
        stop_requested.set()
        return
    loop.add_reader(pidfd, parent_ended)


def _refuse(why: str) -> int:
    _print_error(why)
    return 2


def _print_error(text: str) -> None:
    sys.stderr.write(f"muster.shim: {text}\n")
    sys.stderr.flush()
