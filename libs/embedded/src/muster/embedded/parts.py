"""Base classes for the parts of a stack: servers and programs that are kept running until the stack stops."""

import random
import socket
from abc import ABC, abstractmethod
from pathlib import Path

from muster.embedded.processes import ExitedError, ManagedProcess, ProcessCommand

LOCALHOST = "127.0.0.1"
READY_DEADLINE_S = 30.0
_TRIES_FOR_A_PORT = 5


class PortTakenError(Exception):
    """Another process listens on the TCP port that is configured for a part of the stack."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(
            f"{name}: port {port} is in use. Stop the process that listens there, or use --ephemeral for free ports."
        )


class Part(ABC):
    """One part of the stack. `process` is its latest process; each restart starts another process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: ManagedProcess | None = None

    async def start(self) -> None:
        """Start the process of this part of the stack, and return when the process is ready.

        Raises `ExitedError` if the process ends before it is ready, and `TimeoutError` if it is not ready in time.
        """
        await self.spawn()
        await self.ready()

    async def spawn(self) -> ManagedProcess:
        """Start a new process of this part of the stack, and return it. The previous process must have ended."""
        await self.prepare()
        self.process = ManagedProcess(self.command())
        return self.process

    async def prepare(self) -> None:  # noqa: B027 - most parts need no preparation
        """Prepare the start of the process of this part of the stack; called before each start."""

    @abstractmethod
    def command(self) -> ProcessCommand:
        """Return the command that starts the process of this part of the stack."""

    @abstractmethod
    async def ready(self) -> None:
        """Return when the process of this part of the stack answers requests."""

    async def stop(self) -> None:
        """Stop the process of this part of the stack with the stop signal, and with SIGKILL after the grace time."""
        if self.process:
            await self.process.stop()

    @property
    def running(self) -> ManagedProcess:
        """The latest process of this part of the stack. Raises `RuntimeError` if no process was started."""
        if self.process is None:
            raise RuntimeError(f"{self.name} was never started; call start() first")
        return self.process


class ServerPart(Part):
    """A part of the stack that listens on a TCP port.

    If port 0 is configured, a free port is chosen. The part keeps this port over all its restarts.
    """

    def __init__(self, name: str, *, port: int, log: Path) -> None:
        super().__init__(name)
        self._configured_port, self.port, self.log = port, port or free_port(), log

    async def start(self) -> None:
        """Start the server and wait until it is ready. If its free port was taken meanwhile, choose another port."""
        for left in reversed(range(_TRIES_FOR_A_PORT)):
            try:
                await super().start()
            except ExitedError as error:
                if "address already in use" not in error.tail.lower():
                    raise
                if self._configured_port:
                    raise PortTakenError(self.name, self.port) from None
                if not left:
                    raise
                self.port = free_port()
            else:
                return


def free_port() -> int:
    """Return a TCP port on which no process listens.

    The port is below the range that the kernel uses for outgoing connections, so it is still free at a restart.
    """
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
    raise OSError(
        f"none of 100 tried ports on 127.0.0.1 between {low} and {high} is free; stop processes that listen there"
    )


def listening_socket(name: str, port: int) -> socket.socket:
    """Return a listening socket that a service process inherits. Raises `PortTakenError`.

    The socket stays open while the service restarts, so that clients that connect wait instead of being refused.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOCALHOST, port or free_port()))
    except OSError:
        listener.close()
        raise PortTakenError(name, port) from None
    listener.listen(1024)
    return listener
