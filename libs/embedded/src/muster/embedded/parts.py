"""A part of the stack: something that is spawned, becomes ready, is spawned again when it dies, and stopped."""

import random
import socket
from abc import ABC, abstractmethod
from pathlib import Path

from muster.embedded.processes import ExitedError, ManagedProcess, ProcessCommand

LOCALHOST = "127.0.0.1"
READY_DEADLINE_S = 30.0
_TRIES_FOR_A_PORT = 5


class PortTakenError(Exception):
    """Someone else listens on a port that was asked for by number."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(f"{name}: port {port} is taken. Stop what listens there, or use --ephemeral for free ports.")


class Part(ABC):
    """One process of the stack over its lives. `process` is the latest of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: ManagedProcess | None = None

    async def start(self) -> None:
        """Spawn, and return when ready. Raises `ExitedError` or `TimeoutError`."""
        await self.spawn()
        await self.ready()

    async def spawn(self) -> ManagedProcess:
        """Start one more life; the one before must be over."""
        await self.prepare()
        self.process = ManagedProcess(self.command())
        return self.process

    async def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """What has to be done, or waited for, before it can be spawned."""

    @abstractmethod
    def command(self) -> ProcessCommand:
        """What to start."""

    @abstractmethod
    async def ready(self) -> None:
        """Return when it answers."""

    async def stop(self) -> None:
        """End it, politely first."""
        if self.process:
            await self.process.stop()

    @property
    def running(self) -> ManagedProcess:
        """The latest life; an error if there was none."""
        if self.process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self.process


class ServerPart(Part):
    """A part that binds a port of its own; port 0 asks for a free one, which it then keeps for all its lives."""

    def __init__(self, name: str, *, port: int, log: Path) -> None:
        super().__init__(name)
        self._asked, self.port, self.log = port, port or free_port(), log

    async def start(self) -> None:
        """Spawn and wait; a free port that someone snatched is replaced by another."""
        for left in reversed(range(_TRIES_FOR_A_PORT)):
            try:
                await super().start()
            except ExitedError as error:
                if "address already in use" not in error.tail.lower():
                    raise
                if self._asked:
                    raise PortTakenError(self.name, self.port) from None
                if not left:
                    raise
                self.port = free_port()
            else:
                return


def free_port() -> int:
    """A port nobody listens on, below those the kernel hands to outgoing connections: a restart finds it free again."""
    low, high = 15_000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if high <= low:
        low, high = 10_000, 60_000
    for port in random.sample(range(low, high), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOCALHOST, port))
            except OSError:
                continue
            return port
    raise OSError("no free port found on 127.0.0.1")


def listening_socket(name: str, port: int) -> socket.socket:
    """A listening socket for a service to inherit: it outlives the service, so callers wait and are not refused."""
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((LOCALHOST, port or free_port()))
    except OSError:
        door.close()
        raise PortTakenError(name, port) from None
    door.listen(1024)
    return door
