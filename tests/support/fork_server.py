"""The fork server: imports services and commands once, and forks a child for each request of `tests.support.prefork`.

The server starts no thread and no event loop. It ends when pytest closes its end of the control socket, and the reaper
of the test run then becomes the parent of the children. The server does not use `PR_SET_PDEATHSIG`, because this signal
is sent at the end of the thread that started the server, not at the end of pytest.
"""

import atexit
import fcntl
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

_LARGEST_ORDER, _MOST_FDS = 1 << 17, 64


class Order(NamedTuple):
    """The program of a child. `numbers` are the child's file descriptors, in the order in which they are sent."""

    module: str
    arguments: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    numbers: Sequence[int]


def serve(control: socket.socket) -> tuple[Order, list[int]]:
    """Serve requests until pytest ends. Return only in a forked child, with its order and its descriptors."""
    children = dict[int, tuple[int, int]]()  # Key: pidfd of a child; value: its pid and its news socket.
    ready = select.poll()
    ready.register(control, select.POLLIN)
    while True:
        for fd, _ in ready.poll():
            if fd in children:
                ready.unregister(fd)
                _tell_the_end(fd, *children.pop(fd))
                continue
            body, fds, *_ = socket.recv_fds(control, _LARGEST_ORDER, _MOST_FDS)
            if not body:
                sys.exit()
            order, news = Order(*json.loads(body)), fds.pop(0)
            _learn(order.module)
            if not (pid := os.fork()):
                return order, fds
            pidfd = os.pidfd_open(pid)
            children[pidfd] = pid, news
            ready.register(pidfd, select.POLLIN)
            _tell_the_start(pidfd, pid, news)
            for given in fds:
                os.close(given)


@functools.cache
def _learn(package: str) -> None:
    """Import the modules of a package once, before the first fork for it, and freeze them for the garbage collector."""
    if package == "muster.cli":
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
    else:
        importlib.import_module("muster.shim.startup" if package == "muster.shim" else f"{package}.service")
    gc.collect()
    gc.freeze()


def _tell_the_start(pidfd: int, pid: int, news: int) -> None:
    connection = socket.socket(fileno=news)
    with suppress(OSError):  # The other end may already be closed.
        socket.send_fds(connection, [str(pid).encode()], [pidfd])
    connection.detach()


def _tell_the_end(pidfd: int, pid: int, news: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):  # The other end may already be closed.
        os.write(news, str(code).encode())
    os.close(news)
    os.close(pidfd)


def become(order: Order, fds: Sequence[int]) -> None:
    """Set up the child as an `exec` would: descriptors, directory, environment, arguments and signals."""
    above = max(*fds, *order.numbers) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in fds]
    for fd, number in zip(moved, order.numbers, strict=True):
        os.dup2(fd, number)
    for fd in {int(entry.name) for entry in Path("/proc/self/fd").iterdir()} - {*order.numbers}:
        with suppress(OSError):  # The descriptor of the directory listing is already closed.
            os.close(fd)
    os.chdir(order.cwd)
    Path("/proc/self/comm").write_text(order.module.removeprefix("muster."))  # the name in `ps` and `top`
    os.environ.clear()
    os.environ.update(order.env)
    time.tzset()
    sys.argv[1:] = order.arguments
    sys.path[0] = order.cwd
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=os.isatty(1))  # pyright: ignore[reportUnknownMemberType]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class _Ending:
    """Runs the child's program. As the last `atexit` handler, it exits at once, without freeing the shared modules."""

    code: int | None = None

    def run(self, module: str) -> None:
        """Run a module as `__main__` and store its exit code; Python then prints tracebacks and joins threads."""
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            self.code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            raise
        except Exception:
            self.code = 1
            raise
        self.code = 0

    def __call__(self) -> None:
        if self.code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.code & 0xFF)


if __name__ == "__main__":
    # Ctrl-C in a terminal must reach pytest and the children, but must not end the fork server.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    ending = _Ending()
    # `atexit` runs handlers in reverse order, so this handler must be registered before the handlers of the imports.
    atexit.register(ending)
    asking = socket.socket(fileno=int(sys.argv[1]))
    asked, given = serve(asking)
    asking.detach()
    become(asked, given)
    ending.run(asked.module)
