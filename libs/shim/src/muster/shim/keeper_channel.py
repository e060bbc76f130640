"""The shim's end of one keeper: its process, the packet socket to it, and its output pipe."""

import asyncio
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 18
_WORD_BYTES = 8192
_MOST_WORDS_LEFT = 1024
_CREDENTIALS = struct.Struct("3i")
_RESET = [
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGHUP,
]

OnWord = Callable[[bytes, int], None]
OnOutput = Callable[[bytes], None]


class KeeperChannel:
    """Starts a keeper, which waits for its order. Raises `OSError` where it cannot.

    Start it on the main thread: bubblewrap dies with the *thread* that started it.
    """

    def __init__(self, argv: list[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setblocking(False)
        self._output, printing = os.pipe()
        os.set_blocking(self._output, False)
        with suppress(OSError):  # an ordinary user's share of big pipes may be used up
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._order: int | None = os.memfd_create("order")
        try:
            self.pid = _spawn(argv, theirs.fileno(), printing, self._order)
        except OSError:
            self.close()
            raise
        finally:
            theirs.close()
            os.close(printing)

    def begin(self, order: bytes, on_word: OnWord, on_output: OnOutput) -> None:
        """Have it start its worker; what it says is passed on (with the sender's pid as the kernel has it), and output.

        A keeper that is dead already is heard of as any other.
        """
        self._on_word, self._on_output = on_word, on_output
        assert self._order is not None
        _write_all(self._order, order)
        self._close_order()
        self.say(b"go")
        self._loop.add_reader(self._socket, self._hear)
        self._loop.add_reader(self._output, self._read)

    def say(self, word: bytes) -> None:
        """`term` or `kill`. A keeper that is gone, or does not listen, is dealt with by its caller's clock."""
        with suppress(OSError):
            self._socket.send(word)

    def kill(self) -> None:
        """KILL to the keeper itself: under bubblewrap its whole sandbox dies with it, else its worker does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def finish(self) -> None:
        """The keeper is dead and reaped: take what it left in socket and pipe, and close both.

        A process that outlived it may go on writing, so that only so much is taken as the two can hold.
        """
        try:
            for _ in range(_MOST_WORDS_LEFT):
                if not self._hear():
                    break
            for _ in range(_PIPE_BYTES // _READ_BYTES):
                if not self._read():
                    break
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening. A keeper that still waits for its order ends by this."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_reader(self._output)
        self._socket.close()
        os.close(self._output)
        self._close_order()

    def _close_order(self) -> None:
        if self._order is not None:
            os.close(self._order)
            self._order = None

    def _hear(self) -> bool:
        try:
            word, ancillary, *_ = self._socket.recvmsg(_WORD_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
        except BlockingIOError:
            return False
        except OSError:
            word, ancillary = b"", []
        if not word:
            self._loop.remove_reader(self._socket)
            return False
        sender = next((_CREDENTIALS.unpack(body)[0] for *_, body in ancillary if len(body) == _CREDENTIALS.size), 0)
        self._on_word(word, sender)
        return True

    def _read(self) -> bool:
        try:
            piece = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return False
        if not piece:
            self._loop.remove_reader(self._output)
            return False
        self._on_output(piece)
        return True


def _spawn(argv: list[str], line: int, printing: int, ordered: int) -> int:
    """Start the keeper in its own session; every other descriptor of ours closes itself on exec."""
    # Moved above 3 first, so that no duplicate lands on one that is still to be duplicated.
    sources = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 16) for descriptor in (line, printing, printing, ordered)]
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


def _write_all(descriptor: int, body: bytes) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]
