"""The pid limiter: limits the processes of a worker by the highest pid in the worker's pid namespace.

The kernel counts processes for each user, and never limits those of the host's root. Since Linux 6.14, each pid
namespace has a `kernel.pid_max` of its own, which limits every user in it and in the namespaces below. Only a process
inside a pid namespace can set it, and the worker must not be able to. So the shim runs this file compiled, as
`python -I -S pid_limiter.pyc`, outside of all sandboxes and as root. Descriptor 0 is a packet socket to the shim.

    shim:     <pid of the keeper> <pid_max>                                        ok | failed <text>
    limiter:  +--fork--> joins the pid namespace of the keeper                       ^
                           +--fork--> (first process inside) writes `pid_max` -------+

The host's own `pid_max` is never changed: an older kernel, on which all namespaces share it, is refused, and so is a
process in the limiter's own pid namespace.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # Importing these modules takes longer than the rest of this program.
    from collections.abc import Callable
    from typing import NoReturn

_SOCKET = 0
_SETTING = "/proc/sys/kernel/pid_max"
_OWN = "/proc/self/ns/pid"
_FIRST_KERNEL = (6, 14)


def limit(keeper: int, highest: int) -> None:
    """Write the `pid_max` of a keeper's pid namespace. Raises `OSError`."""
    major, minor, *_ = os.uname().release.split(".")
    if (int(major), int(minor.partition("-")[0])) < _FIRST_KERNEL:
        raise OSError("before Linux 6.14, pid namespaces have no pid_max of their own")
    host = os.readlink(_OWN)  # noqa: PTH115 - importing pathlib would double the start time
    reading, writing = os.pipe()
    joiner = os.fork()
    if not joiner:
        _report(writing, lambda: _join(writing, keeper, host, highest))
    os.close(writing)
    problem = os.read(reading, 1000)
    os.close(reading)
    os.waitpid(joiner, 0)
    if problem:
        raise OSError(problem.decode(errors="replace"))


def _join(writing: int, keeper: int, host: str, highest: int) -> None:
    os.setns(os.pidfd_open(keeper), os.CLONE_NEWPID)
    inside = os.fork()
    if not inside:
        _report(writing, lambda: _write(host, highest))
    os.waitpid(inside, 0)


def _write(host: str, highest: int) -> None:
    if os.readlink(_OWN) == host:  # noqa: PTH115 - as above
        raise OSError("the worker has no pid namespace of its own")
    setting = os.open(_SETTING, os.O_RDWR)
    os.write(setting, b"%d" % highest)


def _report(writing: int, act: "Callable[[], None]") -> "NoReturn":
    """Run a function in a forked process, write its error to the pipe, and end the process."""
    try:
        act()
    except BaseException as error:  # noqa: BLE001 - the shim receives every reason
        os.write(writing, str(error).encode(errors="replace")[:500] or b"unknown")
    finally:
        os._exit(0)


def main() -> None:
    """Set limits until the shim closes the socket."""
    while request := os.read(_SOCKET, 64):
        keeper, _, highest = request.partition(b" ")
        try:
            limit(int(keeper), int(highest))
        except OSError as error:
            os.write(_SOCKET, b"failed " + str(error).encode(errors="replace"))
        else:
            os.write(_SOCKET, b"ok")


if __name__ == "__main__":
    try:
        main()
    finally:
        os._exit(0)
