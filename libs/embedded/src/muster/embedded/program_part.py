"""One of our own programs as a part of the stack."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

import structlog

from muster.common.bus.connection import Bus
from muster.common.faults import Fault
from muster.embedded.parts import LOCALHOST, READY_DEADLINE_S, Part
from muster.embedded.processes import ExitedError, ManagedProcess, ProcessCommand
from muster.embedded.programs import Program
from muster.shim.protocol import IsolationChoice

HTTP_OK = b"200"
_ANSWER_DEADLINE_S = 2.0
STILL_MIGRATING_EVERY_S = 60.0
DRAIN_SHARE = 0.3
"""Of the grace: a service drains its bus, its long polls or HTTP, and its audit one after the other before the kill."""

log = structlog.get_logger()


class ProgramPart(Part):
    """A service or the shim. `bus` is where its `$SRV.PING` is asked."""

    def __init__(
        self,
        program: Program,
        *,
        python: str,
        env: Mapping[str, str],
        log: Path,
        state: Path,
        socket: Path,
        isolation: IsolationChoice = "auto",
        listener: tuple[int, int] | None = None,
        bus: Bus | None = None,
        grace_s: float = 10.0,
    ) -> None:
        super().__init__(program.name)
        self.program = program
        self._python, self._env, self._log, self._grace_s = python, env, log, grace_s
        self._places = {"{socket}": str(socket), "{state}": str(state), "{isolation}": isolation}
        self._socket = socket
        self._listener, self._bus = listener, bus
        self._waits_for_socket = any("{socket}" in word for word in program.arguments)

    async def prepare(self) -> None:
        """A socket file whose owner was killed would look like one that listens."""
        if self._waits_for_socket:
            self._socket.unlink(missing_ok=True)

    def command(self) -> ProcessCommand:
        """Inherits its door, so that callers only wait while it is away."""
        return self._command()

    async def migrate(self) -> None:
        """Bring its schema up to date. Raises `ExitedError` with what it said.

        There is no deadline: a migration of a large table that is killed begins anew at the next start. A warning each
        minute says that it still runs.
        """
        process = ManagedProcess(self._command("migrate"))
        try:
            code = await self._migrated(process)
        finally:
            await process.stop()
        if code:
            raise ExitedError(f"{self.name} migrate", code, process.tail())

    async def _migrated(self, process: ManagedProcess) -> int:
        while True:
            try:
                async with asyncio.timeout(STILL_MIGRATING_EVERY_S):
                    return await process.exited()
            except TimeoutError:
                log.warning("still migrating", part=self.name)

    async def ready(self) -> None:
        """Its socket, its `/ready` and its `$SRV.PING` answer, as far as it has them."""
        process = self.running
        if self._waits_for_socket:
            await process.until(self._takes_connections, deadline_s=READY_DEADLINE_S)
        if self._listener:
            await process.until(self._says_ready, deadline_s=READY_DEADLINE_S)
        if self.program.answers and self._bus:
            await process.until(self.answers, deadline_s=READY_DEADLINE_S)

    async def answers(self) -> bool:
        """Whether `$SRV.PING.<name>` is answered now."""
        if self._bus is None:
            return False
        try:
            await self._bus.call(f"$SRV.PING.{self.name}", b"", timeout_s=_ANSWER_DEADLINE_S)
        except Fault:
            return False
        return True

    async def _says_ready(self) -> bool:
        _, port = self._listener or (0, 0)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_ANSWER_DEADLINE_S):
                reader, writer = await asyncio.open_connection(LOCALHOST, port)
                try:
                    writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    status = (await reader.readline()).split(b" ")
                finally:
                    writer.close()
                return HTTP_OK in status[1:2]
        return False

    async def _takes_connections(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            return False
        writer.close()
        return True

    def _command(self, *more: str) -> ProcessCommand:
        words = (self._places.get(word, word) for word in self.program.arguments)
        return ProcessCommand(
            name=" ".join((self.name, *more)),
            argv=(self._python, *words, *more),
            log=self._log,
            env={"MUSTER_DRAIN_S": f"{self._grace_s * DRAIN_SHARE:g}", **self._env},
            inherited=(self._listener[0],) if self._listener else (),
            grace_s=self._grace_s,
        )
