"""The keeper of a worker at the level landlock: restricts the worker, and makes network calls in its place.

The shim runs this file compiled, with the access rights as arguments. The descriptors are those of `keeper.py`.

    worker: Landlock, filter --listener--> keeper          connect ─┐          ┌─> result
    keeper:                                 thread: waits for calls ┴> decides ┴ makes the call on a copy of the socket

Landlock does not restrict unix sockets by path, and TCP only by port. So the kernel hands these calls to the keeper.
The keeper copies the address first, and makes the call itself, so that the worker cannot change the address after the
check. A worker without network reaches only unix sockets below its paths, and TCP servers that it has opened itself on
the loopback interface. The kernel chooses their ports, so that no worker can take the port of a service of the host.
"""

import _socket
import _thread
import ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # Importing `typing` takes longer than the rest of this program.
    from typing import override

    from muster.shim.keeper import WorkerKeeper, keeper_order
    from muster.shim.socket_calls import SocketCalls
else:
    sys.path.append(os.path.dirname(sys.argv[0]))  # noqa: PTH120 - importing pathlib takes long
    from keeper import WorkerKeeper, keeper_order
    from socket_calls import SocketCalls

    def override(method: object) -> object:
        """Replace `typing.override`."""
        return method


_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH = 1
_EXECUTE, _WRITE, _READ, _READ_DIRECTORY, _TRUNCATE, _DEVICE_CONTROL = 1, 2, 4, 8, 1 << 14, 1 << 15
_ALL_OF_3, _DEVICE_CONTROL_ABI, _SCOPE_ABI = (1 << 15) - 1, 5, 6
_ALL_TCP, _ALL_SCOPES = 3, 3
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _DEVICE_CONTROL
_SET_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 8, 32
_STEP_BYTES, _INT_BYTES = 8, 4


class _FilterProgram(ctypes.Structure):
    _fields_ = (("steps", ctypes.c_ushort), ("body", ctypes.c_char_p))


class LandlockKeeper(WorkerKeeper):
    """The keeper of a worker that Landlock restricts. `arguments` are the access rights."""

    def __init__(self, arguments: "list[str]") -> None:
        super().__init__()
        abi, network, seccomp, *calls, call_filter, self._tmp = arguments[:9]
        self._abi, self._network, self._seccomp = int(abi), network == "1", int(seccomp)
        self._filter = bytes.fromhex(call_filter)
        self._rules = arguments[9:]
        roots = [os.path.realpath(rule[1:]) for rule in self._rules if rule[0] != "d"]
        self._calls = SocketCalls(roots, [int(number) for number in calls], network=self._network)

    @override
    def fork(self) -> int:
        """Fork this process. The keeper then takes the worker's filter, and answers its calls in a thread."""
        receiving, sending = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        # The child closes its low descriptors before its exec.
        self._sending = _socket.socket(-1, -1, -1, _above_all(sending.fileno()))
        sending.close()
        worker = os.fork()
        if not worker:
            return worker
        self._sending.close()
        body, ancillary, *_ = receiving.recvmsg(16, _socket.CMSG_SPACE(_INT_BYTES))
        receiving.close()
        if body:  # Otherwise the worker could not be restricted, and has ended.
            listener = int.from_bytes(ancillary[0][2][:_INT_BYTES], sys.byteorder)
            _thread.start_new_thread(self._calls.serve, (listener,))
        return worker

    @override
    def confine(self) -> None:
        """Restrict this process: capabilities, files, TCP, signals and system calls. Raises `OSError`."""
        self.drop_capabilities()
        self._restrict_paths()
        # Only now, so that a link in place of the directory leads nowhere else.
        if self._tmp and not os.path.isdir(self._tmp):  # noqa: PTH112 - importing pathlib takes long
            os.mkdir(self._tmp, 0o700)  # noqa: PTH102
        listener = self._install_filter()
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, listener.to_bytes(_INT_BYTES, sys.byteorder))
        self._sending.sendmsg([b"filter"], [rights])

    def _restrict_paths(self) -> None:
        files = _ALL_OF_3 | (_DEVICE_CONTROL if self._abi >= _DEVICE_CONTROL_ABI else 0)
        tcp, scopes = 0 if self._network else _ALL_TCP, _ALL_SCOPES if self._abi >= _SCOPE_ABI else 0
        attributes = b"".join(number.to_bytes(8, sys.byteorder) for number in (files, tcp, scopes))
        known = attributes if self._abi >= _SCOPE_ABI else attributes[:16]
        ruleset = _checked(_LIBC.syscall(_CREATE_RULESET, known, len(known), 0))
        rights = {
            "r": _EXECUTE | _READ | _READ_DIRECTORY,
            "d": _READ | _READ_DIRECTORY | _WRITE | _TRUNCATE | _DEVICE_CONTROL,
            "w": files,
        }
        for rule in self._rules:
            path = os.open(rule[1:], os.O_PATH | os.O_CLOEXEC)
            is_directory = os.stat(path).st_mode & 0o170000 == 0o040000  # noqa: PTH116, PLR2004 - S_IFDIR
            allowed = rights[rule[0]] & files & (files if is_directory else _OF_FILES)
            attributes = allowed.to_bytes(8, sys.byteorder) + path.to_bytes(_INT_BYTES, sys.byteorder)
            _checked(_LIBC.syscall(_ADD_RULE, ruleset, _RULE_PATH, attributes, 0))
            os.close(path)
        _checked(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0))
        os.close(ruleset)

    def _install_filter(self) -> int:
        """Install the filter of system calls, and return the descriptor on which the kernel hands calls over."""
        program = _FilterProgram(len(self._filter) // _STEP_BYTES, self._filter)
        flags = _NEW_LISTENER | _WAIT_KILLABLE
        return _checked(_LIBC.syscall(self._seccomp, _SET_FILTER, flags, ctypes.byref(program)))


def _checked(result: int) -> int:
    """Return the result of a system call. Raises `OSError` if it has failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the worker cannot be restricted: {os.strerror(number)}")
    return result


def _above_all(descriptor: int) -> int:
    """Return a copy of the descriptor with a number above those that the worker closes."""
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 256)


if __name__ == "__main__":
    landlock_keeper = LandlockKeeper(sys.argv[1:])
    if (order := keeper_order()) is not None:
        landlock_keeper.run(order)
    os._exit(0)
