"""Starts, lists, reads and stops processes of agents on this host through the shim.

The shim is a program that starts processes and keeps their output. Each process has the key (agent, launch).
"""

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
from muster.common.contracts.agent_process import ProcessHandoff
from muster.common.contracts.packages import Manifest, granted
from muster.common.faults import Conflict, NotFound
from muster.common.isolation_levels import STRONGEST, IsolationLevel
from muster.common.worker_sources import readable_sources
from muster.shim.client import Limits, ProcessRecord, ShimClient

log = structlog.get_logger()

KEY: Final = "agt:"
LEASE_S: Final = 60.0


class LaunchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One launch for the shim to start. The folder `imports` is on the process's Python path, for `manifest.module`."""

    handoff: ProcessHandoff
    home: Path
    manifest: Manifest
    imports: Path
    nats_url: str
    """The NATS URL in the environment of the agent, without credentials."""


class OutputPiece(msgspec.Struct, frozen=True):
    """A piece of a process's output. `start` exceeds the requested offset if the shim has dropped older output.

    `lines_before` is the number of line ends in the output before this piece, or -1 if it is unknown.
    """

    body: bytes
    start: int
    lines_before: int = -1

    @property
    def end(self) -> int:
        """The offset in bytes after this piece of output."""
        return self.start + len(self.body)


class AgentProcesses:
    """The processes of agents on this host, each identified by its agent and the number of its launch.

    The folder `root` contains one directory for each agent. A later agent with the same id gets another directory.
    """

    def __init__(
        self, shim: ShimClient, *, root: Path, lease_s: float = LEASE_S, at_least: IsolationLevel = STRONGEST
    ) -> None:
        self._shim, self._root, self._lease_s = shim, root, lease_s
        self._at_least: IsolationLevel = at_least

    def home(self, agent: AgentRecord) -> Path:
        """Return the directory of an agent, the only directory to which the agent's process can write."""
        return self._root / home_of(agent.agent_id, agent.life)

    def credentials_file(self, agent: AgentRecord) -> Path:
        """Return the path of the file from which the agent's newest launch reads its renewed credentials."""
        return self.home(agent) / "run" / f"nats-{agent.launch}.creds"

    async def launch(self, order: LaunchOrder, *, new: bool) -> AgentProcess:
        """Start the process of a launch, or return the launch's existing process, even if this process has ended.

        `new` means that the launch was never requested before. Raises `InvalidMessage` if the process cannot be
        started, and `Unavailable` if the shim isolates less than this manager requires.
        """
        told, home = order.handoff, order.home
        key = key_of(told.agent_id, told.launch)
        record = None if new else await self._shim.get(key)
        if record is None:
            file = home / "run" / f"handoff-{told.launch}.json"
            write_private(file, encode(told))
            limits = granted(order.manifest.resources)
            record = await self._shim.launch(
                key,
                [sys.executable, "-m", order.manifest.module, "--handoff", str(file)],
                cwd=home / "work",
                env=_environment(order, home),
                writable=[home / "work", home / "run", home / "state"],
                readable=list(dict.fromkeys([*readable_sources(), str(order.imports)])),
                network=True,
                limits=Limits(**msgspec.structs.asdict(limits)),
                lease_s=self._lease_s,
                at_least=self._at_least,
            )
        return process_of(record)

    async def burn(self, agent_id: str, launch: int) -> AgentProcess:
        """Make sure that a delayed request for this launch starts no process.

        The shim starts at most one process for each key, so a command that does nothing is started under the launch's
        key. If the process of the launch has started already, return this process.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = key_of(agent_id, launch)
        return process_of(await self._shim.launch(key, ["muster-never-launched"], cwd=self._root))

    def prepare(self, agent: AgentRecord) -> Path:
        """Create the directories of an agent, delete secrets of its earlier launches, and return its main directory.

        Raises `Conflict` if the agent has put a file or link in the place of a directory.
        """
        home = self.home(agent)
        try:
            for name in ("work", "run", "state"):
                make_private(home / name)
            for left in (home / "run").iterdir():
                if left.name.startswith(("handoff-", "nats-", ".")) and f"-{agent.launch}." not in left.name:
                    clear_away(left)
        except OSError as error:
            raise Conflict(f"agent {agent.agent_id} cannot use {error.filename or home}: {error.strerror}") from None
        return home

    def forget_secrets(self, agent: AgentRecord) -> None:
        """Delete the handoff and credentials files of an agent whose process has ended."""
        for left in (self.home(agent) / "run").glob("*-*.*"):
            try:
                clear_away(left)
            except OSError as error:  # Remaining files do no harm: their credentials are revoked.
                log.warning("agent secrets not deleted", agent_id=agent.agent_id, file=left.name, error=str(error))

    async def of(self, agent_id: str) -> tuple[AgentProcess, ...]:
        """Return the process of every launch of an agent that the shim has a record of, oldest first."""
        records = await self._shim.list(f"{KEY}{token(agent_id, 'agent_id')}:")
        return tuple(sorted(map(process_of, records), key=lambda process: process.launch))

    async def all(self) -> dict[str, list[AgentProcess]]:
        """Return the processes of all launches that the shim has a record of, by agent id."""
        found: dict[str, list[AgentProcess]] = {}
        for record in await self._shim.list(KEY):
            found.setdefault(agent_of(record.key), []).append(process_of(record))
        return found

    async def stop(self, agent_id: str, launch: int, grace_s: float) -> None:
        """Stop a launch: send TERM, wait `grace_s` seconds, send KILL. Returns when no process of the launch runs."""
        try:
            await self._shim.stop(key_of(agent_id, launch), grace_s)
        except NotFound:
            return

    async def forget(self, agent_id: str, launch: int) -> None:
        """Delete the shim's record and the output of a launch."""
        await self._shim.remove(key_of(agent_id, launch))

    async def clear(self, agent: AgentRecord) -> None:
        """Delete all processes, files and records of deleted agents with this id.

        The shim keeps a record under the key of the newest launch, so that a delayed launch request starts no process.

        Only ended launches and directories of deleted agents are deleted, so a delayed call cannot harm a later agent.
        Raises `Conflict` if a file cannot be deleted.
        """
        for process in await self.of(agent.agent_id):
            if process.launch <= agent.launch:
                await self.forget(agent.agent_id, process.launch)
        if agent.launch > 0:
            # The shim starts at most one process for each key. So after `false` was started under the key of the newest
            # launch, a delayed request for this launch starts no process. If the delayed request came first, `launch`
            # returns the process of that request, and `stop` stops this process.
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._shim.launch(key_of(agent.agent_id, agent.launch), ["false"], cwd=self._root)
            await self.stop(agent.agent_id, agent.launch, 0)
        for life in range(1, agent.deletions + 1):
            await asyncio.to_thread(remove, self._root / home_of(agent.agent_id, life))

    async def output(self, agent_id: str, launch: int, offset: int, limit: int) -> OutputPiece:
        """Return output of a launch from the byte `offset`; a negative offset counts from the end.

        Raises `NotFound` if the shim does not know the launch.
        """
        page = await self._shim.output_page(key_of(agent_id, launch), offset, limit)
        return OutputPiece(page.body, page.next_offset - len(page.body), page.lines_before)

    async def renew(self, launches: Mapping[str, int]) -> None:
        """Renew the leases of processes in the shim; `launches` maps agent ids to launch numbers."""
        keys = [key_of(agent_id, launch) for agent_id, launch in launches.items()]
        for first in range(0, len(keys), 1000):
            await self._shim.renew(*keys[first : first + 1000])

    async def exits(self) -> AsyncGenerator[str]:
        """Yield the agent id of each process that ends. Processes that had ended before come first. Never returns."""
        async with aclosing(self._shim.exits()) as exits:
            async for record in exits:
                if record.key.startswith(KEY):
                    yield agent_of(record.key)

    async def prints(self) -> AsyncGenerator[set[str]]:
        """Yield the ids of agents whose process printed or ended. All known agents come first. Never returns."""
        async with aclosing(self._shim.output_changes(KEY)) as prints:
            async for keys in prints:
                yield set(map(agent_of, keys))


def key_of(agent_id: str, launch: int) -> str:
    """Return the key under which the shim knows a launch of an agent."""
    return f"{KEY}{token(agent_id, 'agent_id')}:{launch}"


def home_of(agent_id: str, life: int) -> str:
    """Return the unique name of the directory of an agent; `life` counts the agents that had this id."""
    return token(agent_id, "agent_id") if life == 1 else f"{token(agent_id, 'agent_id')}.{life}"


def agent_of(key: str) -> str:
    """Return the agent id in a key of the shim."""
    return key.removeprefix(KEY).rpartition(":")[0]


def process_of(record: ProcessRecord) -> AgentProcess:
    """Convert a record of the shim to an `AgentProcess`. A process that does not run counts as ended."""
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
    """Return the environment variables for an agent's process. They contain no secret."""
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
