"""Keeps one worker: starts it, passes signals on, and leaves nothing of it behind.

The shim compiles this file and runs that as `python -I -S keeper.pyc`, under bubblewrap as that sandbox's init. It
imports only what starts fast. Descriptors: 0 is a packet socket to the shim, 1 and 2 the worker's output, 3 holds the
`KeeperOrder`.

It hears first `go`, when the order is written, then `term` and `kill`. It says `pid` (sent by the worker itself before
its exec, so that the kernel stamps the packet with its pid as the host sees it), then `started <ticks>` or
`failed <text>`, and last `exited <wait status>`.
The end of the socket means that the shim has died, and everything here dies with it.

It is not dumpable, or its worker, a process of the same user, could take the socket out of it and speak in its name.
"""

import _ctypes
import os
import resource
import select

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` and `signal` with its enumerations would take more time than all the rest of this
    import signal
    from typing import NoReturn
else:
    import _signal as signal

_LINE, _OUT, _ORDER = 0, 1, 3
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_RESCAN_MS = 50
_NOT_FOUND, _NOT_RUN = 127, 126
_PRCTL = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # pyright: ignore[reportArgumentType] - None: this program itself


class KeeperOrder:
    """What to start: fields joined by NUL, which neither arguments nor environment can contain."""

    def __init__(self, cwd: bytes, argv: list[bytes], limits: list[tuple[int, int]], env: dict[bytes, bytes]) -> None:
        self.cwd, self.argv, self.limits, self.env = cwd, argv, limits, env

    def encode(self) -> bytes:
        """The inverse of `decode`."""
        limits = [b"%d=%d" % limit for limit in self.limits]
        env = [b"=".join(variable) for variable in self.env.items()]
        head = [self.cwd, b"%d" % len(self.argv), b"%d" % len(limits)]
        return b"\0".join([*head, *self.argv, *limits, *env])

    @classmethod
    def decode(cls, body: bytes) -> "KeeperOrder":
        """The inverse of `encode`."""
        cwd, arguments, limited, *fields = body.split(b"\0")
        env_from = int(arguments) + int(limited)
        limits = [(int(which), int(most)) for which, most in map(_pair, fields[int(arguments) : env_from])]
        return cls(cwd, fields[: int(arguments)], limits, dict(map(_pair, fields[env_from:])))


def _pair(field: bytes) -> tuple[bytes, bytes]:
    name, _, value = field.partition(b"=")
    return name, value


def descendants(root: int, spare: frozenset[int] = frozenset()) -> list[int]:
    """Every process below `root`, without those in `spare` and what is below them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib alone would double this process's start time
        if name.isdigit() and (stat := _stat(int(name))):
            children.setdefault(int(stat[1]), []).append(int(name))
    found, ahead = list[int](), [root]
    while ahead:
        below = [pid for pid in children.get(ahead.pop(), ()) if pid not in spare]
        found += below
        ahead += below
    return found


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None where there is none."""
    return int(stat[19]) if (stat := _stat(pid)) else None


def kill_all(pids: list[int]) -> None:
    """KILL, for those that are still there."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _stat(pid: int) -> list[bytes] | None:
    """`/proc/<pid>/stat` from the third field on; the second may hold spaces and parentheses."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(descriptor, 4096).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(descriptor)


class WorkerKeeper:
    """One worker and everything it started."""

    def __init__(self) -> None:
        self._prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        self._prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # a setuid program could not be killed by us
        self._woken, wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(wake, False)
        for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, _ignored)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(_LINE, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        self._worker = 0
        self._status: int | None = None

    def run(self, order: KeeperOrder) -> None:
        """Keep the worker to its end."""
        problem = self._start(order)
        if problem:
            self._say(b"failed " + problem)
        else:
            self._say(b"started %d" % (start_ticks(self._worker) or 0))
        while self._reap() and self._status is None:
            if not self._obey():
                break
        self._clear()
        self._say(b"exited %d" % (self._status or 0))

    def _start(self, order: KeeperOrder) -> bytes:
        """Fork and exec; what went wrong, or nothing."""
        told, tell = os.pipe()
        keeper = os.getpid()
        self._worker = os.fork()
        if not self._worker:
            self._become(order, keeper, tell)
        os.close(tell)
        os.close(_ORDER)
        problem = os.read(told, 4096)  # the end of the pipe, by close-on-exec, is success
        os.close(told)
        return problem

    def _prctl(self, option: int, *arguments: int) -> None:
        # `ctypes` itself is most of what this process would import; this is what it does for such a call.
        _ctypes.call_function(_PRCTL, (option, *(*arguments, 0, 0, 0)[:4]))

    def _become(self, order: KeeperOrder, keeper: int, tell: int) -> "NoReturn":
        """In the child: turn into the worker."""
        try:
            os.setsid()
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != keeper:
                os._exit(_NOT_RUN)
            self._say(b"pid")
            signal.set_wakeup_fd(-1)
            for changed in (*_CHANGED, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(changed, signal.SIG_DFL)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.closerange(3, tell)
            for which, most in order.limits:
                hard = resource.getrlimit(which)[1]
                bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.setrlimit(which, (bound, bound))
            os.chdir(order.cwd)
            os.execvpe(order.argv[0], order.argv, order.env)  # noqa: S606 - no shell is the point
        except OSError as error:
            what = order.cwd if error.filename == order.cwd else order.argv[0]
            text = f"{error.strerror}: {os.fsdecode(what)}"
            os.write(_OUT, f"muster: {text}\n".encode(errors="replace"))
            os.write(tell, text.encode(errors="replace")[:4000])
            os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUN)
        finally:
            os._exit(_NOT_RUN)

    def _obey(self) -> bool:
        """Wait for a word or a death; false when all must end now."""
        for descriptor, _ in self._poll.poll():
            if descriptor == self._woken:
                self._drain()
                continue
            try:
                word = os.read(_LINE, 64)
            except ConnectionResetError:
                return False
            if word != b"term":  # `kill`, or nobody there any more
                return False
            try:
                os.killpg(self._worker, signal.SIGTERM)
            except ProcessLookupError:
                continue
        return True

    def _reap(self) -> bool:
        """Take in the dead; false when no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._worker:
                self._status = status

    def _clear(self) -> None:
        """Kill until nothing is left: who forks meanwhile is found by the next look."""
        self._poll.unregister(_LINE)
        while self._reap():
            kill_all(descendants(os.getpid()))
            self._poll.poll(_RESCAN_MS)
            self._drain()

    def _drain(self) -> None:
        try:
            os.read(self._woken, 4096)
        except BlockingIOError:
            return

    def _say(self, words: bytes) -> None:
        try:
            os.write(_LINE, words)
        except OSError:
            return  # the shim is gone; the end of the socket says so too


_CHANGED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def _ignored(_number: int, _frame: object) -> None:
    """A handler must be there for the wake-up descriptor to be written."""


def _order() -> KeeperOrder | None:
    """Wait for it; nothing where this keeper is not needed."""
    try:
        if os.read(_LINE, 64) != b"go":
            return None
    except ConnectionResetError:
        return None
    pieces = list[bytes]()
    os.lseek(_ORDER, 0, os.SEEK_SET)
    while piece := os.read(_ORDER, 1 << 20):
        pieces.append(piece)
    return KeeperOrder.decode(b"".join(pieces))


if __name__ == "__main__":
    kept = WorkerKeeper()  # all that can be done ahead of its order
    if (order := _order()) is not None:
        kept.run(order)
    os._exit(0)
