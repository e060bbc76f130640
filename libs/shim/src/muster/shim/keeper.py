"""The keeper program: starts one worker, forwards signals, and kills every process that the worker leaves behind.

The shim runs this file compiled, as `python -I -S keeper.pyc`. Under bubblewrap the keeper is the init process of the
sandbox. It imports only modules that load fast. Descriptor 0 is a packet socket to the shim, 1 and 2 are the worker's
output, 3 is a memory file with the `KeeperOrder`, 4 is the socket on which the worker tells the shim that it is ready.

    shim:                        go                                  term*       kill
    keeper:   `keeper`, wait ----> fork --> started / failed --> running --> KILL until no child is left --> exited
    worker:                         +--pid--> exec

- The worker sends `pid` before its exec. The kernel adds the sender's pid as the host sees it.
- The keeper is a sub-reaper: orphans of the worker become its children, so `_kill_descendants` finds all of them.
- The end of the socket means that the shim has died. Then the keeper kills all descendants too. If the keeper itself is
  killed, bubblewrap or the worker's death signal kills the worker. The shim, also a sub-reaper, then kills the orphans.
- The keeper is not dumpable. Otherwise the worker, which has the same user, could copy the keeper's socket and send
  packets as the keeper.
"""

import _ctypes
import os
import resource
import select

TYPE_CHECKING = False
if TYPE_CHECKING:  # Importing `typing` and `signal` (enums) takes longer than the rest of this program.
    import signal
    from typing import NoReturn
else:
    import _signal as signal

_SOCKET, _OUT, _ORDER, _READY = 0, 1, 3, 4
READY_VARIABLE = "MUSTER_READY_FD"
"""Environment variable with the descriptor on which a worker sends `ready`. It is set only if the client wants this."""
READY_FD = 3
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_PR_CAPBSET_DROP, _CAPABILITIES = 24, 64
_RESCAN_MS = 50
_NOT_FOUND, _NOT_RUN = 127, 126
_LIBC = _ctypes.dlopen(None, 0)  # pyright: ignore[reportArgumentType] - None means this program
_PRCTL, _CAPSET = _ctypes.dlsym(_LIBC, "prctl"), _ctypes.dlsym(_LIBC, "capset")
_NO_CAPABILITIES = (0x20080522).to_bytes(4, "little") + bytes(4), bytes(24)
"""The two arguments of `capset` that take all capabilities away from this process."""


class KeeperOrder:
    """The program that the keeper starts. The fields are encoded with NUL between them, which no field contains."""

    def __init__(self, cwd: bytes, argv: list[bytes], limits: list[tuple[int, int]], env: dict[bytes, bytes]) -> None:
        self.cwd, self.argv, self.limits, self.env = cwd, argv, limits, env

    def encode(self) -> bytes:
        """Encode this `KeeperOrder` as bytes, which `decode` reads."""
        limits = [b"%d=%d" % limit for limit in self.limits]
        env = [b"=".join(variable) for variable in self.env.items()]
        head = [self.cwd, b"%d" % len(self.argv), b"%d" % len(limits)]
        return b"\0".join([*head, *self.argv, *limits, *env])

    @classmethod
    def decode(cls, body: bytes) -> "KeeperOrder":
        """Make a `KeeperOrder` from the bytes that `encode` returned."""
        cwd, argument_count, limit_count, *fields = body.split(b"\0")
        env_from = int(argument_count) + int(limit_count)
        limits = [(int(which), int(most)) for which, most in map(_pair, fields[int(argument_count) : env_from])]
        return cls(cwd, fields[: int(argument_count)], limits, dict(map(_pair, fields[env_from:])))


def _pair(field: bytes) -> tuple[bytes, bytes]:
    name, _, value = field.partition(b"=")
    return name, value


def descendants(root: int, spare: frozenset[int] = frozenset()) -> list[int]:
    """Return the pids of all descendants of `root`, except those in `spare` and their descendants."""
    children = children_of_all()
    found, ahead = list[int](), [root]
    while ahead:
        below = [pid for pid in children.get(ahead.pop(), ()) if pid not in spare]
        found += below
        ahead += below
    return found


def children_of_all() -> dict[int, list[int]]:
    """Return the pids of the children of each process."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - importing pathlib would double the start time
        if name.isdigit() and (stat := _stat(int(name))):
            children.setdefault(int(stat[1]), []).append(int(name))
    return children


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot, or None if there is no such process."""
    return int(stat[19]) if (stat := _stat(pid)) else None


def kill_all(pids: list[int]) -> None:
    """Send SIGKILL to these processes. Ended processes are ignored."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _stat(pid: int) -> list[bytes] | None:
    """Return the fields of `/proc/<pid>/stat` after the second field, which may contain spaces and parentheses."""
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
    """The keeper of one worker and of all processes that the worker starts."""

    def __init__(self) -> None:
        self.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        self.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # Without this flag, the worker could start a setuid program, which the keeper cannot kill.
        self.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        self._woken, wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(wake, False)
        for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, _ignored)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(_SOCKET, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        self.worker = 0
        self._status: int | None = None
        self.send(b"keeper")  # The shim now limits this process, and then sends `go`.

    def run(self, order: KeeperOrder) -> None:
        """Start the worker, obey the shim until the worker ends, kill its descendants, and report the exit status."""
        problem = self.start_worker(order)
        if problem:
            self.send(b"failed " + problem)
        else:
            self.send(b"started %d" % (start_ticks(self.worker) or 0))
        while self._reap() and self._status is None:
            if not self._handle_events():
                break
        self._kill_descendants()
        self.send(b"exited %d" % (self._status or 0))

    def start_worker(self, order: KeeperOrder) -> bytes:
        """Start the worker. Return the error text, which is empty after a successful exec."""
        read_end, write_end = os.pipe()
        keeper = os.getpid()
        self.worker = self.fork()
        if not self.worker:
            self._exec_worker(order, keeper, write_end)
        os.close(write_end)
        os.close(_ORDER)
        problem = os.read(read_end, 4096)  # An exec closes the pipe's write end, so EOF means success.
        os.close(read_end)
        return problem

    def fork(self) -> int:
        """Fork this process. The keeper of another level replaces this method."""
        return os.fork()

    def confine(self) -> None:
        """Confine this process, which is the worker before its exec. The keeper of another level does so."""

    def drop_capabilities(self) -> None:
        """Take all capabilities away from this process and from all programs that it starts."""
        for capability in range(_CAPABILITIES):
            self.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        _ctypes.call_function(_CAPSET, _NO_CAPABILITIES)

    def prctl(self, option: int, *arguments: int) -> None:
        """Call the kernel's `prctl`. Errors are ignored."""
        # Importing `ctypes` would take most of the start time. This line calls `prctl` without that import.
        _ctypes.call_function(_PRCTL, (option, *(*arguments, 0, 0, 0)[:4]))

    def _exec_worker(self, order: KeeperOrder, keeper: int, write_end: int) -> "NoReturn":
        """Turn the forked child into the worker. If that fails, write an error text to `write_end`."""
        try:
            os.setsid()
            self.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != keeper:
                os._exit(_NOT_RUN)
            self.send(b"pid")
            signal.set_wakeup_fd(-1)
            for changed in (*_CHANGED, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(changed, signal.SIG_DFL)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            kept = READY_VARIABLE.encode() in order.env
            if kept:
                os.dup2(_READY, READY_FD)
            os.closerange(READY_FD + kept, write_end)
            for which, most in order.limits:
                hard = resource.getrlimit(which)[1]
                bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.setrlimit(which, (bound, bound))
            os.chdir(order.cwd)
            self.confine()
            os.execvpe(order.argv[0], order.argv, order.env)  # noqa: S606 - started without a shell on purpose
        except OSError as error:
            what = order.cwd if error.filename == order.cwd else order.argv[0]
            text = f"{error.strerror}: {os.fsdecode(what)}"
            os.write(_OUT, f"muster: {text}\n".encode(errors="replace"))
            os.write(write_end, text.encode(errors="replace")[:4000])
            os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUN)
        finally:
            os._exit(_NOT_RUN)

    def _handle_events(self) -> bool:
        """Wait for a command of the shim or the end of a child. Return False if all processes must be killed now."""
        for descriptor, _ in self._poll.poll():
            if descriptor == self._woken:
                self._drain()
                continue
            try:
                command = os.read(_SOCKET, 64)
            except ConnectionResetError:
                return False
            if command != b"term":  # The shim has sent `kill`. Or the read was empty, because the shim has died.
                return False
            try:
                os.killpg(self.worker, signal.SIGTERM)
            except ProcessLookupError:
                continue
        return True

    def _reap(self) -> bool:
        """Reap ended children, and store the worker's exit status. Return False if no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self.worker:
                self._status = status

    def _kill_descendants(self) -> None:
        """Kill all descendants repeatedly until none is left, because a descendant may fork meanwhile."""
        self._poll.unregister(_SOCKET)
        kill_all([-1] if os.getpid() == 1 else [])  # All processes of the pid namespace at once, so that none can fork.
        while self._reap():
            kill_all(descendants(os.getpid()))
            self._poll.poll(_RESCAN_MS)
            self._drain()

    def _drain(self) -> None:
        try:
            os.read(self._woken, 4096)
        except BlockingIOError:
            return

    def send(self, packet: bytes) -> None:
        """Send a packet to the shim. Does nothing if the shim has died."""
        try:
            os.write(_SOCKET, packet)
        except OSError:
            return  # The shim has died, and `_handle_events` will see the end of the socket.


_CHANGED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def _ignored(_number: int, _frame: object) -> None:
    """Do nothing on SIGCHLD. Without this handler Python would not write to the wake-up descriptor."""


def keeper_order() -> KeeperOrder | None:
    """Wait until the shim sends `go`, and return the `KeeperOrder`. Return None if the shim closes the socket first."""
    try:
        if os.read(_SOCKET, 64) != b"go":
            return None
    except ConnectionResetError:
        return None
    pieces = list[bytes]()
    os.lseek(_ORDER, 0, os.SEEK_SET)
    while piece := os.read(_ORDER, 1 << 20):
        pieces.append(piece)
    return KeeperOrder.decode(b"".join(pieces))


if __name__ == "__main__":
    worker_keeper = WorkerKeeper()
    if (order := keeper_order()) is not None:
        worker_keeper.run(order)
    os._exit(0)
