"""The process that has imported the services and the commands, and forks one when `tests.support.prefork` asks.

It starts no thread and no event loop, and it ends when pytest's end of the control socket is closed. (It has no
`PR_SET_PDEATHSIG`: that tells of the end of the thread that started it.) The reaper of the run gets its children then.
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
    """What a child becomes; its descriptors are `numbers`, in the order in which they are sent."""

    module: str
    arguments: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    numbers: Sequence[int]


def serve(control: socket.socket) -> tuple[Order, list[int]]:
    """Return in a child that was asked for, with the descriptors that it got; exit when pytest is gone."""
    children = dict[int, tuple[int, int]]()  # by pidfd: the pid and the news socket
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
    """Import what it runs, once; a single test imports only what its processes are."""
    if package == "muster.cli":
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
    else:
        importlib.import_module(f"{package}.service")
    gc.collect()
    gc.freeze()


def _tell_the_start(pidfd: int, pid: int, news: int) -> None:
    connection = socket.socket(fileno=news)
    with suppress(OSError):  # nobody listens any more
        socket.send_fds(connection, [str(pid).encode()], [pidfd])
    connection.detach()


def _tell_the_end(pidfd: int, pid: int, news: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):  # nobody listens any more
        os.write(news, str(code).encode())
    os.close(news)
    os.close(pidfd)


def become(order: Order, fds: Sequence[int]) -> None:
    """In the child: take over all that an `exec` would have given it."""
    above = max(*fds, *order.numbers) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in fds]
    for fd, number in zip(moved, order.numbers, strict=True):
        os.dup2(fd, number)
    for fd in {int(entry.name) for entry in Path("/proc/self/fd").iterdir()} - {*order.numbers}:
        with suppress(OSError):  # the one that listed them
            os.close(fd)
    os.chdir(order.cwd)
    Path("/proc/self/comm").write_text(order.module.removeprefix("muster."))  # what `ps` and `top` show
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
    """Runs a program, and is the last `atexit`: it spares the child the freeing of all that it shares."""

    code: int | None = None

    def run(self, module: str) -> None:
        """End as Python does: it prints tracebacks and an exit's message, and joins threads."""
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
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a terminal's interrupt is for pytest and for children
    ending = _Ending()
    atexit.register(ending)  # before the imports register theirs
    asking = socket.socket(fileno=int(sys.argv[1]))
    asked, given = serve(asking)
    asking.detach()
    become(asked, given)
    ending.run(asked.module)
