"""Processes of agents on this host: the shim starts, finds, reads and ends them, by the key (agent, launch)."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final

import msgspec
import structlog

from muster.agent_manager.fleet.adapters.directories import clear_away, make_private, remove, write_private
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.lifecycle import AgentProcess
from muster.common.contract import encode, token
from muster.common.contracts.agent_wire import ProcessHandoff
from muster.common.contracts.packages import Manifest
from muster.common.faults import Conflict, NotFound
from muster.common.sources import readable_sources
from muster.shim.client import Limits, ProcessRecord, ShimClient

log = structlog.get_logger()

KEY: Final = "agt:"
LEASE_S: Final = 60.0


class LaunchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One launch for the shim; the folder `imports` must be on the Python path for `manifest.module`."""

    handoff: ProcessHandoff
    home: Path
    manifest: Manifest
    imports: Path
    nats_url: str
    """The URL for the environment of the agent: without credentials."""


class OutputPiece(msgspec.Struct, frozen=True):
    """A piece of output. `start` is greater than the requested offset if the shim has dropped older output."""

    body: bytes
    start: int

    @property
    def end(self) -> int:
        """The offset after this piece."""
        return self.start + len(self.body)


class AgentProcesses:
    """The processes of agents on this host.

    `root` has one directory for each agent, and another for a later agent of that id.
    """

    def __init__(self, shim: ShimClient, *, root: Path, lease_s: float = LEASE_S) -> None:
        self._shim, self._root, self._lease_s = shim, root, lease_s

    def home(self, agent: AgentRecord) -> Path:
        """Return the agent's own directory, the only one that its process can write to."""
        return self._root / home_of(agent.agent_id, agent.life)

    def credentials_file(self, agent: AgentRecord) -> Path:
        """Return the file from which the newest launch reads its renewed credentials."""
        return self.home(agent) / "run" / f"nats-{agent.launch}.creds"

    async def launch(self, order: LaunchOrder, *, new: bool) -> AgentProcess:
        """Start a launch, or return its existing process, also one that has ended.

        `new`: the launch was never requested before. Raises `InvalidMessage` if it cannot be started.
        """
        told, home = order.handoff, order.home
        key = key_of(told.agent_id, told.launch)
        record = None if new else await self._shim.get(key)
        if record is None:
            file = home / "run" / f"handoff-{told.launch}.json"
            write_private(file, encode(told))
            limits = order.manifest.resources
            record = await self._shim.launch(
                key,
                [sys.executable, "-m", order.manifest.module, "--handoff", str(file)],
                cwd=home / "work",
                env=_environment(order, home),
                writable=[home / "work", home / "run", home / "state"],
                readable=list(dict.fromkeys([*readable_sources(), str(order.imports)])),
                network=True,
                limits=Limits(open_files=limits.open_files, cpu_s=limits.cpu_s, memory_bytes=limits.memory_bytes),
                lease_s=self._lease_s,
                again=True,
            )
        return process_of(record)

    async def burn(self, agent_id: str, launch: int) -> AgentProcess:
        """Launch a no-op under this key, so that a delayed launch starts nothing.

        Return the existing process if there is one.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = key_of(agent_id, launch)
        return process_of(await self._shim.launch(key, ["muster-never-launched"], cwd=self._root))

    def prepare(self, agent: AgentRecord) -> Path:
        """Create the agent's directories, remove secrets that earlier launches left, and return the directory.

        Raises `Conflict` if the agent has put something in the way.
        """
        home = self.home(agent)
        try:
            for name in ("work", "run", "state"):
                make_private(home / name)
            for left in (home / "run").iterdir():
                if left.name.startswith(("handoff-", "nats-", ".")) and f"-{agent.launch}." not in left.name:
                    clear_away(left)
        except OSError as error:
            raise Conflict(f"{error.filename or home} is in the way: {error.strerror}") from None
        return home

    def forget_secrets(self, agent: AgentRecord) -> None:
        """Remove the credentials file of an agent without a running process."""
        for left in (self.home(agent) / "run").glob("*-*.*"):
            try:
                clear_away(left)
            except OSError as error:  # the credentials are revoked in any case
                log.warning("agent directory not removed", agent_id=agent.agent_id, file=left.name, error=str(error))

    async def of(self, agent_id: str) -> tuple[AgentProcess, ...]:
        """Return every launch of an agent that the shim has a record of, oldest first."""
        records = await self._shim.list(f"{KEY}{token(agent_id, 'agent_id')}:")
        return tuple(sorted(map(process_of, records), key=lambda process: process.launch))

    async def all(self) -> dict[str, list[AgentProcess]]:
        """Return every launch that the shim has a record of, by agent."""
        found: dict[str, list[AgentProcess]] = {}
        for record in await self._shim.list(KEY):
            found.setdefault(agent_of(record.key), []).append(process_of(record))
        return found

    async def stop(self, agent_id: str, launch: int, grace_s: float) -> None:
        """End a launch: TERM, the grace, KILL of all its processes. Returns when none is left."""
        try:
            await self._shim.stop(key_of(agent_id, launch), grace_s)
        except NotFound:
            return

    async def forget(self, agent_id: str, launch: int) -> None:
        """Remove the shim's record and the output of a launch."""
        await self._shim.remove(key_of(agent_id, launch))

    async def clear(self, agent: AgentRecord) -> None:
        """Remove everything that deleted agents of this id left, but keep the key of the newest launch used.

        Only ended launches and lives are named, so a delayed call cannot harm a later agent. Raises `Conflict` if a
        file cannot be removed.
        """
        for process in await self.of(agent.agent_id):
            if process.launch <= agent.launch:
                await self.forget(agent.agent_id, process.launch)
        if agent.launch > 0:
            # Unlike a launch that fails, this no-op writes nothing. If a delayed launch was faster, its process is
            # ended.
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._shim.launch(key_of(agent.agent_id, agent.launch), ["false"], cwd=self._root)
            await self.stop(agent.agent_id, agent.launch, 0)
        for life in range(1, agent.deaths + 1):
            await asyncio.to_thread(remove, self._root / home_of(agent.agent_id, life))

    async def output(self, agent_id: str, launch: int, offset: int, limit: int) -> OutputPiece:
        """Return output from `offset`; a negative offset counts from the end.

        Raises `NotFound` if the shim has no such launch.
        """
        body, end = await self._shim.output(key_of(agent_id, launch), offset, limit)
        return OutputPiece(body, end - len(body))

    async def renew(self, launches: Mapping[str, int]) -> None:
        """Renew the leases of these agents' launches."""
        keys = [key_of(agent_id, launch) for agent_id, launch in launches.items()]
        for first in range(0, len(keys), 1000):
            await self._shim.renew(*keys[first : first + 1000])

    async def exits(self) -> AsyncGenerator[str]:
        """Yield the agent of each process that ends, without end; those that have ended come first."""
        async with aclosing(self._shim.exits()) as exits:
            async for record in exits:
                if record.key.startswith(KEY):
                    yield agent_of(record.key)

    async def prints(self) -> AsyncGenerator[set[str]]:
        """Yield the agent of each process that printed or ended, without end; all known agents come first."""
        async with aclosing(self._shim.output_changes(KEY)) as prints:
            async for keys in prints:
                yield set(map(agent_of, keys))


def key_of(agent_id: str, launch: int) -> str:
    """Return the shim's key of a launch."""
    return f"{KEY}{token(agent_id, 'agent_id')}:{launch}"


def home_of(agent_id: str, life: int) -> str:
    """Return the name of an agent's directory. An agent id holds no dot."""
    return token(agent_id, "agent_id") if life == 1 else f"{token(agent_id, 'agent_id')}.{life}"


def agent_of(key: str) -> str:
    """Return the agent id in a key."""
    return key.removeprefix(KEY).rpartition(":")[0]


def process_of(record: ProcessRecord) -> AgentProcess:
    """Return a record of the shim as an `AgentProcess`. A process whose keeper died has ended with an unknown code."""
    return AgentProcess(
        launch=int(record.key.rpartition(":")[2]),
        running=record.state == "running",
        pid=record.pid,
        exit_code=record.exit_code,
        signal=None if record.signal is None else _signal_name(record.signal),
        signal_number=record.signal,
        ended_at=record.ended_at,
        error=record.error,
        interrupted=record.stopped_by in ("shim", "lease"),
    )


def _environment(order: LaunchOrder, home: Path) -> dict[str, str]:
    """Return the environment of an agent: M2's variables and what any program expects; never a secret."""
    told = order.handoff
    return {
        "AGENT_ID": told.agent_id,
        "AGENT_TYPE": told.agent_type,
        "AGENT_NAME": told.name,
        "AGENT_VERSION": told.agent_version,
        "NATS_URL": order.nats_url,
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home / "work"),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": str(order.imports),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
