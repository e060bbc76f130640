"""Builds the filter of system calls for workers at the level landlock, which Landlock itself does not restrict.

The filter refuses what reaches the host without a file or a TCP port: the host's keys and System V memory, io_uring,
which would pass by this filter, and limits of other processes. The calls `connect`, and without network also `bind` and
`listen`, are handed to the keeper of the worker, which decides by the address and makes them in place of the worker.
"""

import platform
import struct
from dataclasses import dataclass, field

_EPERM, _EAFNOSUPPORT = 1, 97
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_STREAM, _SEQPACKET, _TYPE_MASK = 1, 5, 0xF
_IPPROTO_TCP = 6
_MSG_FASTOPEN = 0x2000_0000
"""Flag with which a message opens a TCP connection, without the check of Landlock."""
_X32 = 0x4000_0000
"""On x86-64, calls with this bit have other numbers."""
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _REFUSE, _ASK = 0x7FFF_0000, 0x0005_0000, 0x7FC0_0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_REFUSED = (
    *("add_key", "request_key", "keyctl", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("shmget", "shmctl", "shmat", "semget", "semctl", "semop", "semtimedop"),
    *("msgget", "msgctl", "msgsnd", "msgrcv", "mq_open", "mq_unlink"),
)


@dataclass(frozen=True)
class CallNumbers:
    """The numbers of the system calls of one processor architecture."""

    architecture: int
    numbers: dict[str, int]


_NAMES = (
    *("socket", "socketpair", "connect", "bind", "listen", "sendto", "sendmsg", "sendmmsg", "prlimit64", "seccomp"),
    *("shmget", "shmctl", "shmat", "semget", "semctl", "semop", "semtimedop", "msgget", "msgctl", "msgsnd", "msgrcv"),
    *("mq_open", "mq_unlink", "add_key", "request_key", "keyctl", "pidfd_getfd"),
)
_NEW = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}
_X86_64 = (41, 53, 42, 49, 50, 44, 46, 307, 302, 317, 29, 31, 30, 64, 66, 65, 220, 68, 71, 69, 70, 240, 241, 248, 249)
_ARM_64 = (198, 199, 203, 200, 201, 206, 211, 269, 261, 277, 194, 195, 196, 190, 191, 193, 192, 186, 187, 189, 188)
MACHINES = {
    "x86_64": CallNumbers(0xC000_003E, dict(zip(_NAMES, (*_X86_64, 250, 438), strict=True)) | _NEW),
    "aarch64": CallNumbers(
        0xC000_00B7, dict(zip(_NAMES, (*_ARM_64, 180, 181, 217, 218, 219, 438), strict=True)) | _NEW
    ),
}
"""The processor architectures for which a filter can be built."""


def call_numbers() -> CallNumbers | None:
    """Return the system calls of this machine, or None if its processor is not known."""
    return MACHINES.get(platform.machine())


@dataclass
class _Filter:
    """A program for the kernel's filter of system calls. Jumps go to names, which are resolved at the end."""

    steps: list[tuple[int, int, str | None, str | None]] = field(
        default_factory=list[tuple[int, int, str | None, str | None]]
    )
    places: dict[str, int] = field(default_factory=dict[str, int])

    def load(self, offset: int) -> None:
        self.steps.append((_LOAD, offset, None, None))

    def argument(self, index: int) -> None:
        """Load the lower half of an argument. The kernel reads only this half of the arguments that are checked."""
        self.load(_ARGUMENTS + 8 * index)

    def test(self, code: int, value: int, then: str | None, otherwise: str | None = None) -> None:
        self.steps.append((code, value, then, otherwise))

    def give(self, verdict: int) -> None:
        self.steps.append((_RETURN, verdict, None, None))

    def place(self, name: str) -> None:
        self.places[name] = len(self.steps)

    def encode(self) -> bytes:
        def distance(at: int, name: str | None) -> int:
            return 0 if name is None else self.places[name] - at - 1

        return b"".join(
            struct.pack("=HBBI", code, distance(at, then), distance(at, otherwise), value)
            for at, (code, value, then, otherwise) in enumerate(self.steps)
        )


def socket_filter(calls: CallNumbers, *, network: bool) -> bytes:
    """Return the filter for a worker with or without network, as the kernel reads it."""
    made, number = _Filter(), calls.numbers
    asked = ["connect"] if network else ["connect", "bind", "listen"]
    made.load(_ARCHITECTURE)
    made.test(_EQUAL, calls.architecture, None, "refuse")
    made.load(_NUMBER)
    made.test(_AT_LEAST, _X32, "refuse")
    for name in _REFUSED:
        made.test(_EQUAL, number[name], "refuse")
    for name in asked:
        made.test(_EQUAL, number[name], "ask")
    made.test(_EQUAL, number["socket"], "socket")
    made.test(_EQUAL, number["socketpair"], "socket")
    made.test(_EQUAL, number["prlimit64"], "limits")
    if not network:
        for name, index in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
            made.test(_EQUAL, number[name], None, f"not {name}")
            made.argument(index)
            made.test(_ANY_BIT, _MSG_FASTOPEN, "refuse", "allow")
            made.place(f"not {name}")
    made.place("allow")
    made.give(_ALLOW)
    made.place("refuse")
    made.give(_REFUSE | _EPERM)
    made.place("ask")
    made.give(_ASK)
    made.place("limits")
    made.argument(0)
    made.test(_EQUAL, 0, "allowed", "refused")
    _check_socket(made, network=network)
    return made.encode()


def _check_socket(made: _Filter, *, network: bool) -> None:
    """Permit unix sockets that must connect before they send, and without network else only TCP."""
    made.place("socket")
    made.argument(0)
    made.test(_EQUAL, _AF_UNIX, "unix")
    if network:
        made.give(_ALLOW)
    else:
        made.test(_EQUAL, _AF_INET, "tcp")
        made.test(_EQUAL, _AF_INET6, "tcp", "no family")
        made.place("tcp")
        made.argument(1)
        made.steps.append((_AND, _TYPE_MASK, None, None))
        made.test(_EQUAL, _STREAM, None, "no family")
        made.argument(2)
        made.test(_EQUAL, 0, "allowed")
        made.test(_EQUAL, _IPPROTO_TCP, "allowed", "no family")
    made.place("unix")
    made.argument(1)
    made.steps.append((_AND, _TYPE_MASK, None, None))
    made.test(_EQUAL, _STREAM, "allowed")
    made.test(_EQUAL, _SEQPACKET, "allowed", "no family")
    made.place("allowed")
    made.give(_ALLOW)
    made.place("refused")
    made.give(_REFUSE | _EPERM)
    made.place("no family")
    made.give(_REFUSE | _EAFNOSUPPORT)
