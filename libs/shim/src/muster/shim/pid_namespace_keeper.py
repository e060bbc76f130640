"""The keeper of a worker at the level pid-namespace: makes new namespaces, and is their init process.

The shim runs this file compiled. The descriptors are those of `keeper.py`. The arguments are 1 if the worker has a
network, and the names below /proc that become read-only.

    shim's child:  new namespaces --fork--> waits for the keeper. Its death kills the keeper
    keeper:                          +----> own /proc, no capabilities, then as `keeper.py`. Its death kills all others
"""

import _socket
import ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from muster.shim.keeper import WorkerKeeper, keeper_order
else:
    sys.path.append(os.path.dirname(sys.argv[0]))  # noqa: PTH120 - importing pathlib takes long
    from keeper import WorkerKeeper, keeper_order

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_DESCRIPTORS = 5
_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_PROGRAMS, _REMOUNT, _BIND = 1, 2, 4, 8, 32, 4096
_PRIVATE, _RECURSIVE = 1 << 18, 16384
_SAFE = _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1


def unshare(*, network: bool) -> None:
    """Move this process's future children into new namespaces. Makes a user namespace only if it is needed.

    Raises `OSError`.
    """
    wanted = os.CLONE_NEWPID | os.CLONE_NEWNS | os.CLONE_NEWIPC | os.CLONE_NEWUTS
    wanted |= 0 if network else os.CLONE_NEWNET
    try:
        os.unshare(wanted)
    except PermissionError:
        user, group = os.getuid(), os.getgid()
        os.unshare(os.CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
            os.write(descriptor, text.encode())
            os.close(descriptor)
        os.unshare(wanted)


def wait_for_keeper(keeper: int) -> None:
    """Wait in the first process until the keeper has ended, without the descriptors of the worker."""
    os.closerange(0, _DESCRIPTORS)
    os.waitpid(keeper, 0)
    os._exit(0)


def mount_proc(read_only: "list[str]") -> None:
    """Mount a new /proc, which shows only the new process namespace. Raises `OSError`."""
    _mount(None, "/", None, _PRIVATE | _RECURSIVE)
    _mount("proc", "/proc", "proc", _SAFE)
    for name in read_only:
        path = f"/proc/{name}"
        if os.path.exists(path):  # noqa: PTH110 - importing pathlib takes long
            _mount(path, path, None, _BIND | _RECURSIVE)
            _mount(None, path, None, _REMOUNT | _BIND | _READ_ONLY | _SAFE)


def start_loopback() -> None:
    """Start the loopback interface of the new network namespace. Raises `OSError`."""
    import fcntl

    asked = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    request = b"lo".ljust(16, b"\0") + bytes(24)
    flags = int.from_bytes(fcntl.ioctl(asked.fileno(), _GET_FLAGS, request)[16:18], sys.byteorder)
    raised = request[:16] + (flags | _UP).to_bytes(2, sys.byteorder) + bytes(22)
    fcntl.ioctl(asked.fileno(), _SET_FLAGS, raised)
    asked.close()


def _mount(source: "str | None", target: str, kind: "str | None", flags: int) -> None:
    names = [None if name is None else name.encode() for name in (source, target, kind)]
    if _LIBC.mount(*names, ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def main(arguments: "list[str]") -> None:
    """Make the namespaces, and run the keeper in them."""
    network = arguments[0] == "1"
    unshare(network=network)
    keeper = os.fork()
    if keeper:
        wait_for_keeper(keeper)
    _LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    mount_proc(arguments[1:])
    if not network:
        start_loopback()
    _socket.sethostname("sandbox")
    worker_keeper = WorkerKeeper()
    worker_keeper.drop_capabilities()
    if (order := keeper_order()) is not None:
        worker_keeper.run(order)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
