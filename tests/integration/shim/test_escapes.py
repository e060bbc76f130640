"""At each level below bubblewrap, the ways out of a sandbox that the level promises to close are closed."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from muster.common.isolation_levels import LEVELS, IsolationLevel
from muster.shim.client import ShimClient
from tests.support.escape_attempts import targets, tried_escapes
from tests.support.escapes import EACH, ELSEWHERE, IN_NEW_NETWORK, TRY, promised
from tests.support.forked import Forkling
from tests.support.shim import running_shim

pytestmark = pytest.mark.isolation


@pytest.mark.stress
@pytest.mark.parametrize("level", LEVELS[1:])
async def test_every_way_that_the_level_promises_to_close_is_closed(level: IsolationLevel) -> None:
    with running_shim(level) as process:
        async with ShimClient(process.socket) as shim:
            await shim.probe(deadline_s=20)
            _, tried = await tried_escapes(shim, process, Forkling(process), level)
    assert set(tried) == {escape.name for escape in promised(level)}
    assert tried == dict.fromkeys(tried, "no")


NETWORK = """
import os, socket, sys
def refused(act):
    try: act()
    except OSError as error: return os.strerror(error.errno)
    return "escaped"
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
server.accept()[0].sendall(b"own loopback port works")
print(client.recv(99).decode())
own = socket.socket(socket.AF_UNIX)
own.bind("own")
own.listen()
socket.socket(socket.AF_UNIX).connect("own")
print("own unix socket works")
port = server.getsockname()[1]
os.symlink(other, "link")
print(*{
    refused(lambda: socket.create_connection(("192.0.2.1", port), 1)),
    refused(lambda: socket.create_server(("0.0.0.0", 0))),
    refused(lambda: socket.create_server(("127.0.0.1", 0x4321))),
    refused(lambda: socket.socket().listen()),
    refused(lambda: socket.socket(socket.AF_UNIX).connect("link/s")),
    refused(lambda: socket.socket(socket.AF_UNIX).connect("../other/s")),
}, sep=";")
print(refused(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
print(os.path.dirname(__import__("tempfile").mkdtemp()) == os.environ["TMPDIR"])
"""


async def test_at_the_level_landlock_a_worker_reaches_only_its_own_ports_and_sockets() -> None:
    with running_shim("landlock") as process:
        forkling = Forkling(process)
        other = forkling.home("other")
        async with ShimClient(process.socket) as shim:
            await shim.probe(deadline_s=20)
            with targets(other / "s"):
                code = f"other = {str(other)!r}" + NETWORK
                record, output = await forkling.run(shim, "network", code, "spawned")
    assert record.exit_code == 0, output
    assert output.splitlines() == [
        "own loopback port works",
        "own unix socket works",
        "Permission denied",
        "Address family not supported by protocol",
        "True",
    ]


@pytest.mark.parametrize("way", [ELSEWHERE, IN_NEW_NETWORK], ids=["at another address", "in another network"])
async def test_at_the_level_landlock_a_worker_gets_no_port_of_the_host_by_opening_the_same_port(way: str) -> None:
    with running_shim("landlock") as process, socket.create_server(("127.0.0.1", 0)) as service:
        attempt = TRY.format(attempt=way.format(port=service.getsockname()[1]))
        async with ShimClient(process.socket) as shim:
            await shim.probe(deadline_s=20)
            _, output = await Forkling(process).run(shim, "port", EACH.format(codes={"port": attempt}), "spawned")
    assert output.splitlines() == ["port: no"]


ENDED = """
import os, socket
with socket.create_server(("127.0.0.1", 0)) as server:
    address = server.getsockname()
    socket.create_connection(address).close()
open("ended", "w").write(str(address[1]))
open("taken").read()
try: socket.create_connection(address, 2)
except OSError as error: print(os.strerror(error.errno))
else: print("escaped")
"""


def taken_port(home: Path) -> None:
    """Listen on the port that the worker has given back, until the worker has tried to connect."""
    port = int((home / "ended").read_text())
    with socket.create_server(("127.0.0.1", port)) as service:
        (home / "taken").write_text("")
        service.settimeout(0.2)
        with pytest.raises(TimeoutError):
            service.accept()


async def test_at_the_level_landlock_a_worker_does_not_reach_a_service_on_the_port_of_its_ended_server() -> None:
    with running_shim("landlock") as process:
        forkling = Forkling(process)
        home = forkling.home("ended")
        for name in ("ended", "taken"):
            os.mkfifo(home / name)
        async with ShimClient(process.socket) as shim:
            await shim.probe(deadline_s=20)
            ran = asyncio.create_task(forkling.run(shim, "ended", ENDED, "spawned"))
            await asyncio.to_thread(taken_port, home)
            _, output = await ran
    assert output.splitlines() == ["Connection refused"]


UNREADABLE = """
import ctypes, os, socket
libc, kernel = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p(0xFFFFFFFFFF600000)
for call in (libc.connect, libc.bind):
    print(call(socket.socket().fileno(), kernel, 16), os.strerror(ctypes.get_errno()))
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname())
print("works")
"""


async def test_at_the_level_landlock_a_call_with_an_unreadable_address_fails_and_later_calls_work() -> None:
    with running_shim("landlock") as process:
        async with ShimClient(process.socket) as shim:
            await shim.probe(deadline_s=20)
            _, output = await Forkling(process).run(shim, "unreadable", UNREADABLE, "spawned")
    assert output.splitlines() == ["-1 Bad address", "-1 Bad address", "works"]
