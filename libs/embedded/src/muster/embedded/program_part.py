"""A program of Muster, a service or the shim, as a part of the stack of `muster up`."""

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
"""The share of the grace time for each step of a service's stop: draining NATS, then HTTP, then the audit."""

log = structlog.get_logger()


class ProgramPart(Part):
    """A service or the shim as a part of the stack. `bus` is the NATS connection on which `ready` sends `$SRV.PING`."""

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
        self._placeholders = {"{socket}": str(socket), "{state}": str(state), "{isolation}": isolation}
        self._socket = socket
        self._listener, self.bus = listener, bus
        self._waits_for_socket = any("{socket}" in argument for argument in program.arguments)

    async def prepare(self) -> None:
        """Delete the socket file of a killed process, because `ready` waits until the new process creates the file."""
        if self._waits_for_socket:
            self._socket.unlink(missing_ok=True)

    def command(self) -> ProcessCommand:
        """Return the program's command line. The program inherits a listening socket, so clients wait at restarts."""
        return self._command()

    async def migrate(self) -> None:
        """Migrate the program's database schema. Raises `ExitedError` with the end of its log if the migration fails.

        The migration has no deadline, because a killed migration of a large table would start from the beginning next
        time. The method logs a warning once a minute while the migration runs.
        """
        process = ManagedProcess(self._command("migrate"))
        try:
            code = await self._await_migration(process)
        finally:
            await process.stop()
        if code:
            raise ExitedError(f"{self.name} migrate", code, process.tail())

    async def _await_migration(self, process: ManagedProcess) -> int:
        while True:
            try:
                async with asyncio.timeout(STILL_MIGRATING_EVERY_S):
                    return await process.exited()
            except TimeoutError:
                log.warning("schema migration still running", part=self.name)

    async def ready(self) -> None:
        """Wait until the program answers on each of its interfaces: unix socket, HTTP `/ready`, NATS `$SRV.PING`."""
        process = self.running
        if self._waits_for_socket:
            await process.until(self._accepts_connections, deadline_s=READY_DEADLINE_S)
        if self._listener:
            await process.until(self._http_ready, deadline_s=READY_DEADLINE_S)
        if self.program.answers and self.bus:
            await process.until(self.answers, deadline_s=READY_DEADLINE_S)

    async def answers(self) -> bool:
        """Return whether the program answers the NATS request `$SRV.PING.<name>` within 2 s."""
        if self.bus is None:
            return False
        try:
            await self.bus.call(f"$SRV.PING.{self.name}", b"", timeout_s=_ANSWER_DEADLINE_S)
        except Fault:
            return False
        return True

    async def _http_ready(self) -> bool:
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

    async def _accepts_connections(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            return False
        writer.close()
        return True

    def _command(self, *more: str) -> ProcessCommand:
        arguments = (self._placeholders.get(argument, argument) for argument in self.program.arguments)
        return ProcessCommand(
            name=" ".join((self.name, *more)),
            argv=(self._python, *arguments, *more),
            log=self._log,
            env={"MUSTER_DRAIN_S": f"{self._grace_s * DRAIN_SHARE:g}", **self._env},
            inherited=(self._listener[0],) if self._listener else (),
            grace_s=self._grace_s,
        )
