"""Tries the ways out of `tests.support.escapes` in a worker of a real shim, with real targets on the host."""

import ctypes
import os
import secrets
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from muster.common.isolation_levels import IsolationLevel
from muster.shim.client import ProcessRecord, ShimClient
from muster.shim.seccomp import call_numbers
from tests.support.escapes import EACH, promised
from tests.support.forked import Forkling, Way
from tests.support.shim import ShimProcess

_IPC_CREATE, _IPC_REMOVE, _USER_KEYRING, _UNLINK = 0o1600, 0, -4, 9


async def tried_escapes(
    shim: ShimClient, at: ShimProcess, forkling: Forkling, level: IsolationLevel, way: Way = "spawned"
) -> tuple[ProcessRecord, dict[str, str]]:
    """Try all ways out that the level promises to close. Return the worker's record, and `no` or `escaped` for each."""
    other = forkling.home(f"other-{way}")
    secret = at.directory / "secret"
    secret.touch()
    with targets(other / "s") as found:
        facts = {"file": secret, "other": other, "shim": at.socket, "state": at.state, "host": os.getpid(), **found}
        codes = {escape.name: escape.code(facts) for escape in promised(level)}
        record, output = await forkling.run(shim, f"escape-{way}", EACH.format(codes=codes), way)
    assert record.exit_code == 0, output
    assert record.isolation == level
    assert (secret.stat().st_size, secret.stat().st_nlink) == (0, 1)
    return record, dict(line.split(": ", 1) for line in output.splitlines())


@contextmanager
def targets(neighbour: Path) -> Generator[dict[str, object]]:
    """Offer what workers must not reach: sockets, a key and System V memory. Yield their names and numbers."""
    name = f"muster-{secrets.token_hex(8)}"
    calls, libc = call_numbers(), ctypes.CDLL(None)
    assert calls
    memory_key = secrets.randbelow(1 << 30) + 1
    memory = libc.shmget(memory_key, 4096, _IPC_CREATE)
    key = libc.syscall(calls.numbers["add_key"], b"user", name.encode(), b"secret", 6, _USER_KEYRING)
    with (
        socket.socket(socket.AF_UNIX) as at_path,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        neighbour.unlink(missing_ok=True)
        at_path.bind(str(neighbour))
        at_path.listen()
        abstract.bind(f"\0{name}")
        abstract.listen()
        udp.bind(("127.0.0.1", 0))
        try:
            yield {
                "port": tcp.getsockname()[1],
                "udp": udp.getsockname()[1],
                "abstract": name,
                "key": name,
                "keyctl": calls.numbers["keyctl"],
                "memory": memory_key,
            }
        finally:
            libc.shmctl(memory, _IPC_REMOVE, None)
            libc.syscall(calls.numbers["keyctl"], _UNLINK, key, _USER_KEYRING)
