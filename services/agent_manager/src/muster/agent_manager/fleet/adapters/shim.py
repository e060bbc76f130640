"""Processes of agents on this host: started, found again, read and ended through the shim, by (agent, launch)."""

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
    """What is to be started: `imports` must be on the interpreter's path for `manifest.module`."""

    handoff: ProcessHandoff
    home: Path
    manifest: Manifest
    imports: Path
    nats_url: str
    """As the agent's environment may say it: without credentials."""


class OutputPiece(msgspec.Struct, frozen=True):
    """A piece of output; `start` is beyond the offset asked for where the shim has forgotten what was there."""

    body: bytes
    start: int

    @property
    def end(self) -> int:
        """The offset after it."""
        return self.start + len(self.body)


class AgentProcesses:
    """All processes of agents on this host. `root` has a directory for each agent, and none for two of one id."""

    def __init__(self, shim: ShimClient, *, root: Path, lease_s: float = LEASE_S) -> None:
        self._shim, self._root, self._lease_s = shim, root, lease_s

    def home(self, agent: AgentRecord) -> Path:
        """The agent's own directory; it is the only place it can write to."""
        return self._root / home_of(agent.agent_id, agent.life)

    def credentials_file(self, agent: AgentRecord) -> Path:
        """Where its newest launch finds its renewed credentials."""
        return self.home(agent) / "run" / f"nats-{agent.launch}.creds"

    async def launch(self, order: LaunchOrder, *, new: bool) -> AgentProcess:
        """Start a launch, or find it, though it has ended; `new`: it was never asked for.

        Raises `InvalidMessage` for what cannot be started.
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
        """Use up the key of a launch that shall not be any more: whoever is late with asking for it starts nothing.

        What somebody has started under it already is found instead.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = key_of(agent_id, launch)
        return process_of(await self._shim.launch(key, ["muster-never-launched"], cwd=self._root))

    def prepare(self, agent: AgentRecord) -> Path:
        """Make the agent's directories, and remove what earlier launches left of their secrets. Its own directory.

        Raises `Conflict` for what the agent has put in the way.
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
        """Nothing of it runs: nobody needs its credentials."""
        for left in (self.home(agent) / "run").glob("*-*.*"):
            try:
                clear_away(left)
            except OSError as error:  # they are revoked in any case
                log.warning("agent directory not removed", agent_id=agent.agent_id, file=left.name, error=str(error))

    async def of(self, agent_id: str) -> tuple[AgentProcess, ...]:
        """Every launch the shim knows of an agent, oldest first."""
        records = await self._shim.list(f"{KEY}{token(agent_id, 'agent_id')}:")
        return tuple(sorted(map(process_of, records), key=lambda process: process.launch))

    async def all(self) -> dict[str, list[AgentProcess]]:
        """Every launch the shim knows, by agent."""
        found: dict[str, list[AgentProcess]] = {}
        for record in await self._shim.list(KEY):
            found.setdefault(agent_of(record.key), []).append(process_of(record))
        return found

    async def stop(self, agent_id: str, launch: int, grace_s: float) -> None:
        """TERM, grace, KILL of everything below it; returns when nothing of it is left."""
        try:
            await self._shim.stop(key_of(agent_id, launch), grace_s)
        except NotFound:
            return

    async def forget(self, agent_id: str, launch: int) -> None:
        """Remove what is left of a launch: its record and its output."""
        await self._shim.remove(key_of(agent_id, launch))

    async def clear(self, agent: AgentRecord) -> None:
        """Remove all that is left of the deleted agents of this id, but for the newest launch's key, used up afresh.

        Everything is named by launches and lives that are over, so whoever does this late harms no later one.
        Raises `Conflict` for a file that cannot be removed.
        """
        for process in await self.of(agent.agent_id):
            if process.launch <= agent.launch:
                await self.forget(agent.agent_id, process.launch)
        if agent.launch > 0:
            # Unlike what cannot be launched, this says nothing; if someone late was faster, it is theirs that ends.
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._shim.launch(key_of(agent.agent_id, agent.launch), ["false"], cwd=self._root)
            await self.stop(agent.agent_id, agent.launch, 0)
        for life in range(1, agent.deaths + 1):
            await asyncio.to_thread(remove, self._root / home_of(agent.agent_id, life))

    async def output(self, agent_id: str, launch: int, offset: int, limit: int) -> OutputPiece:
        """Output from `offset`; negative: from the end. Raises `NotFound` when the launch is forgotten."""
        body, end = await self._shim.output(key_of(agent_id, launch), offset, limit)
        return OutputPiece(body, end - len(body))

    async def renew(self, launches: Mapping[str, int]) -> None:
        """Start the leases of these agents' launches again."""
        keys = [key_of(agent_id, launch) for agent_id, launch in launches.items()]
        for first in range(0, len(keys), 1000):
            await self._shim.renew(*keys[first : first + 1000])

    async def exits(self) -> AsyncGenerator[str]:
        """Whose process has ended, at once, for ever; past ones first."""
        async with aclosing(self._shim.exits()) as exits:
            async for record in exits:
                if record.key.startswith(KEY):
                    yield agent_of(record.key)

    async def prints(self) -> AsyncGenerator[set[str]]:
        """Whose process has printed or ended, for ever; all that are known first."""
        async with aclosing(self._shim.prints(KEY)) as prints:
            async for keys in prints:
                yield set(map(agent_of, keys))


def key_of(agent_id: str, launch: int) -> str:
    """The shim's name of a launch."""
    return f"{KEY}{token(agent_id, 'agent_id')}:{launch}"


def home_of(agent_id: str, life: int) -> str:
    """The name of an agent's directory. No token holds a dot."""
    return token(agent_id, "agent_id") if life == 1 else f"{token(agent_id, 'agent_id')}.{life}"


def agent_of(key: str) -> str:
    """The agent in a key."""
    return key.removeprefix(KEY).rpartition(":")[0]


def process_of(record: ProcessRecord) -> AgentProcess:
    """As the domain knows it. A process that was lost with its keeper ended, nobody knows how."""
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
    """M2's variables and what any program expects; no secret is ever in it."""
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
