"""The spawner: starts programs inside the namespaces of a fork server, on request of the shim.

The shim runs this file compiled, as `python -I -S spawner.pyc`, as the init process of an outer bubblewrap. Descriptor
0 is a packet socket to the shim. Each packet is a command line, with NUL between the arguments, and carries the open
descriptors that the program gets as 0, 1, 2 and so on. The spawner starts the fork server of an agent package and a
`bwrap` for each of its workers. Only then a process of the fork server has the right to join the worker's namespaces.

The spawner has all capabilities of the outer bubblewrap's user namespace, which `bwrap` needs. It runs no code of agent
packages. The spawner ends at the end of the socket. Then the kernel kills all processes in its pid namespace.
"""

import _ctypes
import _socket
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # Importing `signal` (enums) takes longer than the rest of this program.
    import signal
else:
    import _signal as signal

_SOCKET = 0
_PACKET_BYTES = 1 << 17
_MOST_DESCRIPTORS = 16
_INT_BYTES = 4
_HIGH = 32
_PR_SET_DUMPABLE = 4
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_RESET = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP]


def spawn(argv: list[bytes], descriptors: list[int]) -> None:
    """Start a program in a new session, with `descriptors` as 0, 1, 2 and so on. Errors are ignored.

    After an error, all copies of the program's socket are closed, and its other end shows the shim the failure.
    """
    import fcntl

    sources = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH) for descriptor in descriptors]
    try:
        os.posix_spawn(
            argv[0],
            argv,
            {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(sources)],
            setsid=True,
            setsigmask=[],
            setsigdef=_RESET,
        )
    except OSError:
        return
    finally:
        for descriptor in [*descriptors, *sources]:
            os.close(descriptor)


def main() -> None:
    """Start programs until the shim closes the socket. With arguments, become the program that they name instead."""
    own = _ctypes.dlopen(None, 0)  # pyright: ignore[reportArgumentType] - None means this program
    _ctypes.call_function(_ctypes.dlsym(own, "prctl"), (_PR_SET_DUMPABLE, 0, 0, 0, 0))
    # `bwrap` reads the `/proc` of its own pid namespace. The kernel permits this mount because the host's is visible.
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    if _ctypes.call_function(_ctypes.dlsym(own, "mount"), (b"proc", b"/proc", b"proc", flags, 0)):
        os.write(2, b"a file system /proc cannot be mounted in a nested user namespace\n")
        return
    if len(sys.argv) > 1:
        os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - started without a shell on purpose
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel reaps the ended programs.
    shim = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _SOCKET)
    space = _socket.CMSG_SPACE(_MOST_DESCRIPTORS * _INT_BYTES)
    while True:
        packet, ancillary, *_ = shim.recvmsg(_PACKET_BYTES, space, _socket.MSG_CMSG_CLOEXEC)
        if not packet:
            return
        rights = b"".join(body for *_, body in ancillary)
        descriptors = [
            int.from_bytes(rights[at : at + _INT_BYTES], sys.byteorder) for at in range(0, len(rights), _INT_BYTES)
        ]
        spawn(packet.split(b"\0"), descriptors)


if __name__ == "__main__":
    try:
        main()
    finally:
        os._exit(1)
