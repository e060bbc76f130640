"""The shim's connection to one keeper: the keeper process, a packet socket to it, and the worker's output pipe.

The keeper is the process that starts one worker. A packet socket preserves message boundaries, and the kernel adds the
sender's pid as the host sees it. So the shim learns the pid of a worker in a pid namespace. If the shim dies, the
socket ends, and the keeper kills all processes of the worker.
"""

import asyncio
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 18
_PACKET_BYTES = 8192
_MOST_PACKETS_LEFT = 1024
_CREDENTIALS = struct.Struct("3i")
_RESET = [
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGHUP,
]

OnPacket = Callable[[bytes, int], None]
"""Receives a packet of the keeper or worker, and the pid of its sender."""
OnOutput = Callable[[bytes], None]
OnKeeper = Callable[[int], None]
"""Receives the pid of the keeper before the keeper gets its order."""


@dataclass(frozen=True)
class KeeperDescriptors:
    """The open descriptors that a new keeper and its worker get from the shim."""

    line: int
    """Packet socket from the keeper to the shim."""
    output: int
    order: int
    """Memory file, in which `KeeperChannel.begin` writes the program of the worker."""
    worker: int
    """Packet socket from the worker to the shim."""


class KeeperChannel:
    """A keeper process and the shim's connection to it. The constructor starts the keeper or raises `OSError`.

    `start` starts the keeper and returns its pid. It returns 0 if the pid is not known yet. Then the packet `keeper`
    tells it, and `on_end` is called when the keeper has ended.

    Only the main thread may call the constructor, because bubblewrap dies with the *thread* that started it.
    """

    def __init__(
        self, start: Callable[[KeeperDescriptors], int], on_end: Callable[["KeeperChannel"], None] = lambda _: None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_end, self._pidfd, self._begun = on_end, -1, False
        self._socket, keeper_end = _packet_sockets()
        self._worker, worker_end = _packet_sockets()
        self._output, write_end = os.pipe()
        os.set_blocking(self._output, False)
        # Enlarging the pipe fails if the user's quota of large pipes is used up. A smaller pipe works too.
        with suppress(OSError):
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._order: int | None = os.memfd_create("order")
        try:
            self.pid = start(KeeperDescriptors(keeper_end.fileno(), write_end, self._order, worker_end.fileno()))
        except OSError:
            self.close()
            raise
        finally:
            keeper_end.close()
            worker_end.close()
            os.close(write_end)

    def begin(self, order: bytes, on_keeper: OnKeeper, on_packet: OnPacket, on_output: OnOutput) -> None:
        """Make the keeper start the worker, and pass the keeper's packets and the worker's output to the callbacks.

        The keeper gets the order after `on_keeper` has returned. No error is raised if the keeper has already died,
        because SIGCHLD reports this to the shim.
        """
        self._on_keeper, self._on_packet, self._on_output = on_keeper, on_packet, on_output
        assert self._order is not None
        _write_all(self._order, order)
        self._close_order()
        self._loop.add_reader(self._socket, self._read_packet)
        self._loop.add_reader(self._output, self._read_output)
        self._loop.add_reader(self._worker, self._read_worker_packet)

    def send(self, command: bytes) -> None:
        """Send `go`, `term` or `kill` to the keeper.

        Errors are ignored, because the caller has a timer that kills the keeper.
        """
        with suppress(OSError):
            self._socket.send(command)

    def kill(self) -> None:
        """Send SIGKILL to the keeper. The kernel then also kills the keeper's sandbox or worker."""
        with suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            elif self.pid:
                os.kill(self.pid, signal.SIGKILL)

    def finish(self) -> None:
        """Read the remaining packets and output of a dead and reaped keeper, and close both.

        A surviving descendant may continue to write. So this method reads at most as much as the socket and the pipe
        can contain.
        """
        try:
            for _ in range(_MOST_PACKETS_LEFT):
                if not self._read_packet():
                    break
            for _ in range(_PIPE_BYTES // _READ_BYTES):
                if not self._read_output():
                    break
        finally:
            self.close()

    def close(self) -> None:
        """Close the keeper's socket and the output pipe. A keeper that has not started its worker yet then ends."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_reader(self._output)
        self._loop.remove_reader(self._worker)
        self._socket.close()
        self._worker.close()
        os.close(self._output)
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._close_order()

    def _close_order(self) -> None:
        if self._order is not None:
            os.close(self._order)
            self._order = None

    def _read_packet(self) -> bool:
        """Pass one packet of the keeper to the callback. Return False if there was none."""
        if (received := self._received(self._socket)) is None:
            return False
        packet, sender = received
        if packet == b"keeper" and not self._begun:
            self._begun = True
            if not self.pid:
                self._watch(sender)
            self._on_keeper(sender)
            self.send(b"go")
            return True
        if self._pidfd >= 0:
            self._read_worker_packet()  # A forked worker sends its pid before its keeper sends `started`.
        self._on_packet(packet, sender)
        return True

    def _read_worker_packet(self) -> None:
        """Pass a packet of the worker to the callback. A worker may send only `pid`, `ready` and `unable`."""
        if received := self._received(self._worker):
            packet, sender = received
            if packet.partition(b" ")[0] in (b"ready", b"unable") or (packet == b"pid" and self._pidfd >= 0):
                self._on_packet(b"worker " + packet, sender)

    def _received(self, source: socket.socket) -> tuple[bytes, int] | None:
        """Return one packet and the pid of its sender; None if there is no packet."""
        try:
            packet, ancillary, *_ = source.recvmsg(_PACKET_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
        except BlockingIOError:
            return None
        except OSError:
            packet, ancillary = b"", []
        if not packet:
            self._loop.remove_reader(source)
            if source is self._socket and not self.pid:
                self._on_packet(b"unable the sandbox for a forked worker could not be made", 0)
            return None
        sender = next((_CREDENTIALS.unpack(body)[0] for *_, body in ancillary if len(body) == _CREDENTIALS.size), 0)
        return packet, sender

    def _watch(self, pid: int) -> None:
        """Store the pid of a keeper that is no child of the shim, and wait for its end."""
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # The keeper was killed and reaped meanwhile.
            self._loop.call_soon(self._on_end, self)
            return
        self._loop.add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._on_end(self)

    def _read_output(self) -> bool:
        """Pass one piece of the worker's output to the callback. Return False if there was none."""
        try:
            piece = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return False
        if not piece:
            self._loop.remove_reader(self._output)
            return False
        self._on_output(piece)
        return True


def spawning(argv: list[str]) -> Callable[[KeeperDescriptors], int]:
    """Return a function that starts the keeper with this command line and returns its pid."""
    return lambda given: spawn(argv, [given.line, given.output, given.output, given.order, given.worker])


def spawn(argv: list[str], descriptors: list[int]) -> int:
    """Start a program in a new session, with these descriptors as 0, 1, 2 and so on. Return its pid."""
    # The descriptors are first duplicated to 16 and above, so that no target overwrites one that is still needed.
    sources = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 16) for descriptor in descriptors]
    try:
        return os.posix_spawnp(
            argv[0],
            argv,
            {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(sources)],
            setsid=True,
            setsigmask=[],
            setsigdef=_RESET,
        )
    finally:
        for source in sources:
            os.close(source)


def _packet_sockets() -> tuple[socket.socket, socket.socket]:
    """Return the shim's end, which receives the pid of each sender, and the other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours.setblocking(False)
    return ours, theirs


def _write_all(descriptor: int, body: bytes) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]
