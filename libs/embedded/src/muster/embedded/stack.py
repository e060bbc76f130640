"""The stack of `muster up`: starts all parts on one machine, restarts parts that die, and stops them in reverse order.

    start: NATS, PostgreSQL --> migrations, shim --> services --> ready.json
    run:   part dies --> start it again on the same files, port and sockets; 5 deaths in 60 s --> `StackFailedError`
    stop:  services --> shim --> NATS, PostgreSQL

A part counts as ready when it has answered a request; there are no fixed waits. Every part has a death signal: if this
process is killed, the kernel kills the parts. The next start needs no repair: PostgreSQL and JetStream recover their
data. The shim's journal and the services' tables name the work to continue.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from socket import socket
from types import TracebackType
from typing import Self

import structlog

from muster.common.bus.connection import Bus, open_bus
from muster.common.faults import NotFound
from muster.common.nats_identity.roles import NatsRole
from muster.common.supervision import until_told_to_stop
from muster.embedded.config import StackConfig, default_data_dir
from muster.embedded.control_socket import RestartReply, open_control_socket
from muster.embedded.environment import Addresses, environment, set_variables
from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.part_supervisor import PartSupervisor, StackFailedError
from muster.embedded.parts import LOCALHOST, READY_DEADLINE_S, Part, listening_socket
from muster.embedded.program_part import ProgramPart
from muster.embedded.programs import ListenerName, Program
from muster.embedded.ready import Ready
from muster.embedded.stack_directory import Secrets, StackDirectory, open_stack_directory, temporary_directory
from muster.embedded.stack_servers import nats_server, postgres_server
from muster.embedded.start_progress import PartProgress, PartState, ProgressListener
from muster.embedded.task_groups import CancelledOnExit, raise_first_error, run_all
from muster.shim.client import ShimClient

log = structlog.get_logger()


class Stack:
    """A stack that runs until its `async with` block ends. `ready` returns the addresses of its servers.

    `listener` is called for each change of a part while the stack starts and stops. `opened` is called with the data
    directory, as soon as the directory is locked and before any part starts.
    """

    def __init__(
        self,
        config: StackConfig,
        *,
        listener: ProgressListener = lambda _: None,
        opened: Callable[[StackDirectory], None] = lambda _: None,
    ) -> None:
        self.config = config
        self._listener, self._opened = listener, opened
        self._closing = AsyncExitStack()
        self._parts: list[Part] = []
        """All parts of the stack in the order of their start."""
        self._supervisors: dict[str, PartSupervisor] = {}
        self._part_restarted = asyncio.Condition()
        self._listeners: dict[ListenerName, socket] = {}
        self._up = False
        self._directory: StackDirectory
        self._secrets: Secrets
        self._addresses: Addresses
        self._nats_credentials = self._isolation = ""
        self._tasks: asyncio.TaskGroup

    async def __aenter__(self) -> Self:
        try:
            await self._bring_up()
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._up = False
        failure = None
        try:
            await self._closing.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            failure = (group.subgroup(StackFailedError) or group).exceptions[0]
        if failure and failure is not error:
            raise failure

    async def run_until_stopped(self) -> None:
        """Wait for SIGTERM or SIGINT. If a part fails, the wait ends and `async with` raises `StackFailedError`."""
        await until_told_to_stop()

    @property
    def ready(self) -> Ready:
        """The current addresses, credentials and pids of the stack, as written to `ready.json`."""
        return Ready(
            api_url=self._url("api"),
            gateway_url=self._url("gateway"),
            nats_url=self._addresses.nats_url,
            nats_credentials=self._nats_credentials,
            database_url=self._addresses.database_url,
            admin_key=self._secrets.admin_key,
            pids=self.pids,
            restarts=self.restarts,
            control_socket=str(self._directory.control_socket),
            model_keys=self._model_keys,
            isolation=self._isolation,
            provider_isolation=self.config.isolation_of_providers(self._isolation),
            pid=os.getpid(),
            data_dir=str(self._directory.root),
            version=version("muster-embedded"),
        )

    @property
    def pids(self) -> dict[str, int]:
        """The pid of each part's current process, by the name of the part."""
        return {part.name: part.process.pid for part in self._parts if part.process}

    @property
    def restarts(self) -> dict[str, int]:
        """The number of restarts after a death, for each part that has died, by the name of the part."""
        return {name: one.restarts for name, one in self._supervisors.items() if one.restarts}

    async def restart(self, name: str) -> RestartReply:
        """Restart a part properly and wait until it is ready. Raises `NotFound` if the stack has no such part.

        Raises `OSError`, `ExitedError` or `TimeoutError` if the new process does not become ready.
        """
        if name not in self._supervisors:
            raise NotFound(f"this stack has no part {name!r}; its parts are {', '.join(self._supervisors)}")
        supervisor = self._supervisors[name]
        async with AsyncExitStack() as until_ready:
            if isinstance(supervisor.part, ProgramPart) and supervisor.part.program.answers:
                supervisor.part.bus = await until_ready.enter_async_context(self._bus())
            seconds = await supervisor.restart()
        return RestartReply(part=name, pid=self.pids[name], seconds=seconds)

    async def kill(self, name: str) -> int:
        """Kill a part of the stack with SIGKILL; return the pid of the process that replaces the killed one."""
        part = next(part for part in self._parts if part.name == name)
        before = part.running
        before.signal(signal.SIGKILL)
        async with self._part_restarted:
            await self._part_restarted.wait_for(lambda: part.running is not before)
        return part.running.pid

    # Starting

    async def _bring_up(self) -> None:
        enter = self._closing.enter_context
        root, ephemeral = self.config.data_dir, self.config.ephemeral
        if self.config.remove_data or (ephemeral and root is None):
            root = enter(temporary_directory(root))
        self._directory = enter(open_stack_directory(root or default_data_dir()))
        self._opened(self._directory)
        self._secrets = self._directory.secrets()
        self._model_keys = set_variables(self.config.user_env, self._directory.root)
        ports: dict[ListenerName, int] = {"api": self.config.listens.api, "gateway": self.config.listens.gateway}
        for name, port in ports.items():  # The listening sockets of services stay open while services restart.
            self._listeners[name] = enter(contextlib.closing(listening_socket(name, port)))
        self._closing.callback(self._remove_ready_files)
        self._closing.push_async_callback(self._stop)
        self._tasks = await self._closing.enter_async_context(asyncio.TaskGroup())
        restarters = self._closing.enter_context(CancelledOnExit())
        with raise_first_error():
            await self._start_servers(restarters)
            await self._start_programs(restarters)
        control = open_control_socket(self._directory.control_socket, self.restart, lambda: self.pids.get("shim"))
        await self._closing.enter_async_context(control)
        self._up = True
        self._publish()

    async def _start_servers(self, restarters: CancelledOnExit) -> None:
        nats_url, database_url = self.config.nats_url, self.config.database_url
        authority = None if nats_url else NatsAuthority(self._directory.identity)
        nats = nats_server(self.config, self._directory, authority) if authority else None
        password = self._secrets.database_password
        postgres = None if database_url else postgres_server(self.config, self._directory, password)
        await self._start(restarters, *(server for server in (nats, postgres) if server))
        self._addresses = Addresses(
            nats_url=nats.url if nats else nats_url,
            database_url=postgres.url if postgres else database_url,
            gateway_url=self._url("gateway"),
            authority=authority,
        )
        self._nats_credentials = (
            str(authority.credentials_file(NatsRole.ADMIN)) if authority else str(self.config.nats_credentials or "")
        )

    async def _start_programs(self, restarters: CancelledOnExit) -> None:
        async with self._bus() as bus:
            services = [self._part(program, bus) for program in self.config.services]
            shim = [self._part(self.config.shim, None)] if self.config.shim else []
            await run_all(
                self._start(restarters, *shim),
                *(self._timed(part.name, "migrated", part.migrate()) for part in services if part.program.migrates),
            )
            await self._start(restarters, *services)
        if self.config.shim:
            async with ShimClient(self._directory.shim_socket) as client:
                self._isolation = (await client.probe(deadline_s=READY_DEADLINE_S)).level

    async def _start(self, restarters: CancelledOnExit, *parts: Part) -> None:
        self._parts.extend(parts)
        await run_all(*(self._timed(part.name, "ready", part.start()) for part in parts))
        for part in parts:
            log.info("stack part ready", part=part.name, pid=part.running.pid)
            supervisor = PartSupervisor(part, self.config.restarts, self._process_replaced)
            self._supervisors[part.name] = supervisor
            restarters.append(self._tasks.create_task(supervisor.run(), name=f"restart {part.name}"))

    async def _timed(self, part: str, state: PartState, step: Coroutine[object, object, None]) -> None:
        """Await a step of a part. Tell the listener when the step begins (not for a stop), and when it has ended."""
        now = asyncio.get_running_loop().time
        began_s = now()
        if state != "stopped":
            self._listener(PartProgress(part=part, state="starting"))
        try:
            await step
        except Exception:
            self._listener(PartProgress(part=part, state="failed", seconds=now() - began_s))
            raise
        self._listener(PartProgress(part=part, state=state, seconds=now() - began_s))

    def _part(self, program: Program, bus: Bus | None) -> ProgramPart:
        listener = self._listeners.get(program.listener) if program.listener else None
        return ProgramPart(
            program,
            python=self.config.python,
            env=environment(
                program,
                self.config,
                data_directory=self._directory,
                secrets=self._secrets,
                addresses=self._addresses,
                listeners={name: listener.fileno() for name, listener in self._listeners.items()},
            ),
            log=self._directory.log(program.name),
            state=self._directory.shim,
            socket=self._directory.shim_socket,
            isolation=self.config.isolation,
            listener=(listener.fileno(), listener.getsockname()[1]) if listener else None,
            bus=bus,
            grace_s=self.config.grace_s,
        )

    @asynccontextmanager
    async def _bus(self) -> AsyncGenerator[Bus | None]:
        if not any(program.answers for program in self.config.services):
            yield None
            return
        ours = self.ready.credentials_file
        async with open_bus(
            self._addresses.nats_url, "muster-up", credentials=ours, tls=self.config.nats_tls, wait_s=READY_DEADLINE_S
        ) as bus:
            yield bus

    # Restarting

    async def _process_replaced(self, progress: PartProgress) -> None:
        self._listener(progress)
        self._publish()  # The file `ready.json` must contain the new pid.
        async with self._part_restarted:
            self._part_restarted.notify_all()

    def _publish(self) -> None:
        if self._up:
            self.ready.write(*self._ready_files())

    # Stopping

    async def _stop(self) -> None:
        """Stop the services, then the shim, then the servers, so that no part loses another part that it needs."""
        order: list[list[Part]] = [[], [], []]
        for part in self._parts:
            is_service = isinstance(part, ProgramPart) and part.program is not self.config.shim
            order[0 if is_service else 1 if isinstance(part, ProgramPart) else 2].append(part)
        for parts in order:
            await run_all(*(self._timed(part.name, "stopped", part.stop()) for part in parts))
            for part in parts:
                log.info("stack part stopped", part=part.name)

    def _remove_ready_files(self) -> None:
        for file in self._ready_files():
            file.unlink(missing_ok=True)

    def _ready_files(self) -> list[Path]:
        return [self._directory.ready, *([self.config.ready_file] if self.config.ready_file else [])]

    def _url(self, name: ListenerName) -> str:
        return f"http://{LOCALHOST}:{self._listeners[name].getsockname()[1]}"
