"""Starts real NATS and PostgreSQL servers: shared ones for a pytest worker, and separate ones that a test may kill."""

import asyncio
import secrets
import shutil
import signal
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

from muster.embedded.nats_server import NatsServer
from muster.embedded.parts import ServerPart
from muster.embedded.postgres import Postgres
from muster.embedded.sql import connected

DEATH_S = 30.0


def run_now[T](step: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end in a new event loop, separate from the loops of pytest-asyncio."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(step)


@contextmanager
def running[S: ServerPart](server: S) -> Generator[S]:
    """Start a server, yield it, and stop it at the end."""
    try:
        run_now(server.start())
        yield server
    finally:
        run_now(server.stop())


def fresh_nats(home: Path) -> NatsServer:
    """Return a NATS server with an empty store. The server is not started."""
    return NatsServer(home / "nats", password=secrets.token_hex(8), log=home / "nats.log")


def fresh_postgres(home: Path) -> Postgres:
    """Return a PostgreSQL server with a new database cluster. The server is not started."""
    return Postgres(home / "postgres", password=secrets.token_hex(8), log=home / "postgres.log")


class Restartable:
    """A server that a test can kill and start again; the URL stays the same."""

    def __init__(self, server: NatsServer | Postgres) -> None:
        self.server = server

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def pid(self) -> int:
        return self.server.running.pid

    async def kill(self) -> None:
        """Kill the server with SIGKILL; wait until it and its children (PostgreSQL's backends) have ended."""
        started = psutil.Process(self.pid).children(recursive=True)
        self.server.running.signal(signal.SIGKILL)
        await self.server.running.exited()
        _, alive = await asyncio.to_thread(psutil.wait_procs, started, timeout=DEATH_S)
        assert not alive, f"child processes still run {DEATH_S} s after the end of their server: {alive}"

    async def signal(self, number: int) -> None:
        """Send a signal to the server and all of its child processes."""
        for one in [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]:
            one.send_signal(number)

    async def start(self) -> None:
        """Start the server again with its stored data, and wait until it is ready."""
        await self.server.start()

    async def start_empty(self) -> None:
        """Delete all streams of the stopped NATS server and start it again, as with a new disk."""
        assert isinstance(self.server, NatsServer)
        shutil.rmtree(self.server._home / "jetstream")  # pyright: ignore[reportPrivateUsage] - as with a lost disk
        await self.server.start()


@contextmanager
def temporary_database(server: Postgres, like: str = "template1") -> Generator[str]:
    """Create a copy of the database `like` (`template1` is empty), yield its URL, and drop it at the end."""
    name = f"test_{secrets.token_hex(6)}"
    yield run_now(create_database(server, name, like))
    run_now(drop_database(server, name))


async def create_database(server: Postgres, name: str, like: str = "template1") -> str:
    """Create a copy of the database `like` and return its URL. PostgreSQL refuses if `like` has connections."""
    async with connected(server.url) as connection:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{like}"')
    return server.url_of(name)


async def drop_database(server: Postgres, name: str) -> None:
    """Drop a database, even if clients are still connected."""
    async with connected(server.url) as connection:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
