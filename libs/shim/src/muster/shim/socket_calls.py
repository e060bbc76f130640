"""Decides about the network calls of a worker at the level landlock, and makes the permitted ones in its place.

This module is part of the program `landlock_keeper.py`. Its only entry is `SocketCalls.serve`, which runs in a thread.
"""

import _thread
import ctypes
import fcntl
import os
import select
import struct
import sys

_RECEIVE, _SEND, _IS_VALID = 0xC050_2100, 0xC018_2101, 0x4008_2102
_CALL, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1
_EPERM, _EAGAIN, _EACCES, _EFAULT, _EINVAL, _EMFILE, _ECONNREFUSED = 1, 11, 13, 14, 22, 24, 111
_AF_UNSPEC, _AF_UNIX, _AF_INET, _AF_INET6 = 0, 1, 2, 10
_SOL_SOCKET, _SO_DOMAIN = 1, 39
_LONGEST_ADDRESS, _FAMILY_BYTES, _UNIX_PATH_BYTES = 128, 2, 108
_LEAST_BYTES = {_AF_INET: 8, _AF_INET6: 24}
_IN6_LOOPBACK, _IN4_MAPPED = bytes(15) + b"\1", bytes(10) + b"\xff\xff"
_MOST_CONNECTS = 64
"""Connections that a worker may be making at the same time. Each takes a thread of the keeper."""
_MOST_LISTENERS = 4096
"""Sockets of a worker that may listen at the same time."""
_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
"""The TCP sockets in the keeper's network namespace, those that listen first."""
_LISTENS = "0A"
_LIBC = ctypes.CDLL(None, use_errno=True)


class CallRefused(Exception):
    """The worker may not make this call. The argument is the error number that the worker gets."""


class SocketCalls:
    """Makes the network calls of one worker. `roots` are the paths below which it may connect to unix sockets.

    `numbers` are the system calls `pidfd_getfd`, `connect`, `bind` and `listen` of this machine.
    """

    def __init__(self, roots: "list[str]", numbers: "list[int]", *, network: bool) -> None:
        self._roots, self._network = roots, network
        self._pidfd_getfd, self._connect, self._bind, self._listen = numbers
        self._opened = set[tuple[int, bytes]]()
        """The listeners that the worker has opened: the inode of the socket, and its end."""
        self._connecting = 0
        self._counting = _thread.allocate_lock()
        self._listener = -1

    def serve(self, listener: int) -> None:
        """Answer the calls of the worker and its descendants until all of them have ended."""
        self._listener = listener
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            for _, event in poll.poll():
                if not event & select.POLLIN:
                    return
                self._take()

    def _take(self) -> None:
        buffer = bytearray(_CALL.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, buffer)
        except OSError:  # The calling process was killed.
            return
        number, task, _, call, _, _, *arguments = _CALL.unpack(buffer)
        if call != self._connect:
            self._answer(number, task, call, arguments)
            return
        with self._counting:
            too_many = self._connecting >= _MOST_CONNECTS
            self._connecting += not too_many
        if too_many:
            self._send(number, _EAGAIN)
            return
        try:  # A connect may wait for the server, and must not delay other calls.
            _thread.start_new_thread(self._answer_connect, (number, task, call, arguments))
        except (RuntimeError, MemoryError):  # The worker has used up its processes, which include the keeper's threads.
            with self._counting:
                self._connecting -= 1
            self._send(number, _EAGAIN)

    def _answer_connect(self, number: int, task: int, call: int, arguments: "list[int]") -> None:
        try:
            self._answer(number, task, call, arguments)
        finally:
            with self._counting:
                self._connecting -= 1

    def _answer(self, number: int, task: int, call: int, arguments: "list[int]") -> None:
        """Make a call in place of the worker, and tell the worker the error number."""
        copied = -1
        try:
            copied, address = self._copied(number, task, call, arguments)
            if call == self._bind and _domain(copied) == _AF_UNIX:
                # Landlock restricts where a socket file may be made. It also refuses TCP, if the worker replaces the
                # socket after this check.
                self._send(number, 0, _CONTINUE)
                return
            error = self._made(task, call, copied, address, arguments)
        except CallRefused as refused:
            error = int(refused.args[0])
        except OSError as failed:
            error = failed.errno or _EPERM
        except Exception:  # noqa: BLE001 - a call without an answer would wait for ever
            error = _EFAULT  # Such as an address of memory that only the kernel can have.
        finally:
            if copied >= 0:
                os.close(copied)
        self._send(number, error)

    def _copied(self, number: int, task: int, call: int, arguments: "list[int]") -> tuple[int, bytes]:
        """Return copies of the socket and of the address of a call. The caller closes the socket."""
        length = min(arguments[2] & 0xFFFF_FFFF, _LONGEST_ADDRESS) if call != self._listen else 0
        memory = os.open(f"/proc/{task}/mem", os.O_RDONLY)
        try:
            address = os.pread(memory, length, arguments[1]) if length else b""
        finally:
            os.close(memory)
        process = os.pidfd_open(_process_of(task))
        try:
            copied = _LIBC.syscall(self._pidfd_getfd, process, ctypes.c_int(arguments[0] & 0xFFFF_FFFF), 0)
            error = ctypes.get_errno()
        finally:
            os.close(process)
        if copied < 0:
            raise OSError(error, "the socket cannot be copied")
        try:  # The task may have ended meanwhile, and its number may be that of another process.
            fcntl.ioctl(self._listener, _IS_VALID, struct.pack("=Q", number))
        except OSError:
            os.close(copied)
            raise
        return copied, address

    def _made(self, task: int, call: int, copied: int, address: bytes, arguments: "list[int]") -> int:
        """Make the call on the copied socket, and return its error number. Raises `CallRefused`."""
        if call == self._listen:
            return self._made_listen(copied, arguments[1])
        if len(address) < _FAMILY_BYTES:
            raise CallRefused(_EINVAL)
        family = struct.unpack_from("=H", address)[0]
        if call == self._bind:
            if not _is_loopback(address) or _port(address):
                raise CallRefused(_EACCES)
            return _error(_LIBC.bind(copied, address, len(address)))
        if _AF_UNIX in (_domain(copied), family):
            return self._connected_by_path(task, copied, address[_FAMILY_BYTES:])
        if not self._network and family != _AF_UNSPEC:
            if not _is_loopback(address):
                raise CallRefused(_EACCES)
            if not self._is_own(_end(address)):
                raise CallRefused(_ECONNREFUSED)
        return _error(_LIBC.connect(copied, address, len(address)))

    def _made_listen(self, copied: int, backlog: int) -> int:
        if _domain(copied) != _AF_UNIX:
            # Without this check, the kernel would choose a port on all interfaces.
            bound = _bound_address(copied)
            if not _is_loopback(bound):
                raise CallRefused(_EACCES)
            self._remember(os.fstat(copied).st_ino, _end(bound))
        return _error(_LIBC.listen(copied, ctypes.c_int(backlog & 0xFFFF_FFFF)))

    def _remember(self, inode: int, end: bytes) -> None:
        with self._counting:
            if len(self._opened) >= _MOST_LISTENERS:
                self._opened &= set(_listeners())
            if len(self._opened) >= _MOST_LISTENERS:
                raise CallRefused(_EMFILE)
            self._opened.add((inode, end))

    def _is_own(self, end: bytes) -> bool:
        """Return whether a connection to this end now reaches a server of the worker, and no other server.

        A socket that listens in another network namespace is not in the tables. A server of the host may have the same
        port at another address, or have got the port after the worker's server has ended.
        """
        ends = (end, _IN4_MAPPED + bytes(4) + end[16:], bytes(16) + end[16:])
        found = [listener for listener in _listeners() if listener[1] in ends]
        return bool(found) and all(listener in self._opened and listener[1] == end for listener in found)

    def _connected_by_path(self, task: int, copied: int, name: bytes) -> int:
        path, _, _ = name[:_UNIX_PATH_BYTES].partition(b"\0")
        if not path:  # An abstract name, which belongs to the host.
            raise CallRefused(_EPERM)
        place = path if path.startswith(b"/") else b"/proc/%d/cwd/%b" % (task, path)
        found = os.open(place, os.O_PATH | os.O_CLOEXEC)
        try:
            real = os.readlink(f"/proc/self/fd/{found}")  # noqa: PTH115 - importing pathlib takes long
            if not any(real == root or real.startswith(f"{root}/") for root in self._roots):
                raise CallRefused(_EACCES)
            # The link leads to the file that was checked, also if the path has another file by now.
            address = struct.pack("=H", _AF_UNIX) + b"/proc/self/fd/%d\0" % found
            return _error(_LIBC.connect(copied, address, len(address)))
        finally:
            os.close(found)

    def _send(self, number: int, error: int, flags: int = 0) -> None:
        try:
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(number, 0, -error, flags))
        except OSError:
            return  # The calling process was killed.


def _process_of(task: int) -> int:
    """Return the process of a thread."""
    with open(f"/proc/{task}/status", "rb") as status:  # noqa: PTH123 - importing pathlib takes long
        for line in status:
            if line.startswith(b"Tgid:"):
                return int(line[5:])
    raise CallRefused(_EPERM)


def _domain(descriptor: int) -> int:
    """Return the address family of a socket. Raises `OSError`."""
    family, size = ctypes.c_int(), ctypes.c_uint(4)
    error = _error(_LIBC.getsockopt(descriptor, _SOL_SOCKET, _SO_DOMAIN, ctypes.byref(family), ctypes.byref(size)))
    if error:
        raise OSError(error, "the descriptor is no socket")
    return family.value


def _bound_address(descriptor: int) -> bytes:
    buffer, size = ctypes.create_string_buffer(_LONGEST_ADDRESS), ctypes.c_uint(_LONGEST_ADDRESS)
    if error := _error(_LIBC.getsockname(descriptor, buffer, ctypes.byref(size))):
        raise OSError(error, "the socket has no address")
    return buffer.raw[: size.value]


def _is_loopback(address: bytes) -> bool:
    family = struct.unpack_from("=H", address)[0]
    if len(address) < _LEAST_BYTES.get(family, _LONGEST_ADDRESS + 1):
        return False
    if family == _AF_INET:
        return address[4] == 127  # noqa: PLR2004 - 127.0.0.0/8
    host = address[8:24]
    return host == _IN6_LOOPBACK or (host[:12] == _IN4_MAPPED and host[12] == 127)  # noqa: PLR2004


def _end(address: bytes) -> bytes:
    """Return the IPv6 address of a socket, which includes the IPv4 addresses, and its port."""
    family = struct.unpack_from("=H", address)[0]
    return (_IN4_MAPPED + address[4:8] if family == _AF_INET else address[8:24]) + address[2:4]


def _listeners() -> "list[tuple[int, bytes]]":
    """Return the inode and the end of each TCP socket that listens in this network namespace."""
    found: list[tuple[int, bytes]] = []
    for path in _TABLES:
        if not os.path.exists(path):  # noqa: PTH110 - importing pathlib takes long
            continue  # A host without IPv6.
        with open(path, encoding="ascii") as table:  # noqa: PTH123
            next(table)
            for line in table:
                fields = line.split()
                if fields[3] != _LISTENS:
                    break
                found.append((int(fields[9]), _end_of_row(fields[1])))
    return found


def _end_of_row(written: str) -> bytes:
    """Return the end that a table of the kernel shows as hexadecimal numbers, of which each has four bytes."""
    host, _, port = written.partition(":")
    parts = [int(host[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(host), 8)]
    address = b"".join(parts)
    return (_IN4_MAPPED + address if len(parts) == 1 else address) + bytes.fromhex(port)


def _port(address: bytes) -> int:
    return int.from_bytes(address[2:4], "big")


def _error(result: int) -> int:
    return ctypes.get_errno() if result < 0 else 0
