"""Runs the steps that `domain.lifecycle` decides for agents. Results are stored only if this manager owns the agent."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.adapters.agents import AgentClient
from muster.agent_manager.fleet.adapters.credentials import AgentCredentials
from muster.agent_manager.fleet.adapters.shim import AgentProcesses, LaunchOrder, key_of
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.launch_ends import exit_code, how, lost
from muster.agent_manager.fleet.domain.lifecycle import (
    AgentFacts,
    AgentProcess,
    CleanUpDeleted,
    GiveUpRestarts,
    NothingToDo,
    RecordEnd,
    RecordRunning,
    RecordStopped,
    StartProcess,
    Step,
    StopProcess,
    StoreLaunch,
    WaitForRestart,
)
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.domain.restarts import due, used_up
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.fleet.store import cleanups, launches, messages, ownership, states
from muster.agent_manager.fleet.store.ownership import OwnershipLost
from muster.agent_manager.settings import ManagerSettings
from muster.common.clock import Clock
from muster.common.contract import fields_of
from muster.common.contracts.agent_process import ProcessHandoff
from muster.common.contracts.agent_spec import AgentSpec
from muster.common.contracts.agents import AgentState
from muster.common.faults import Conflict, InvalidMessage, Unavailable
from muster.common.manifests import import_root

log = structlog.get_logger()

GIVEN_UP = "it failed too often within a minute and is not restarted; repair the agent, then start it"


class Launcher:
    """Reads an agent's stored row and its processes, and runs one step for the agent."""

    def __init__(
        self,
        database: ManagerDatabase,
        workers: AgentProcesses,
        credentials: AgentCredentials,
        agents: AgentClient,
        catalogue: Catalogue,
        settings: ManagerSettings,
        *,
        expect: Callable[[AgentRecord], None],
        now: Clock,
    ) -> None:
        self._database, self._workers, self._credentials = database, workers, credentials
        self._agents, self._catalogue, self._settings = agents, catalogue, settings
        self._expect, self._now = expect, now
        self._nats_authorities = settings.nats_authorities

    async def look(self, agent_id: str, owner: str) -> tuple[AgentRecord, AgentFacts]:
        """Return an agent and all values that decide its next step; `OwnershipLost` if another manager owns it."""
        seen, processes = await asyncio.gather(
            launches.seen(self._database.reader, agent_id, owner), self._workers.of(agent_id)
        )
        if seen is None:
            raise OwnershipLost(f"agent {agent_id} belongs to another manager now")
        agent = seen.agent
        facts = AgentFacts(
            desired=agent.desired,
            state=agent.state,
            launch=agent.launch,
            min_launch=agent.min_launch,
            is_open=seen.is_open,
            asked=agent.pid is not None,
            processes=processes,
            failures=seen.failures,
            mode=agent.mode,
            uncleaned=agent.uncleaned,
        )
        return agent, facts

    async def take(self, agent: AgentRecord, facts: AgentFacts, step: Step, owner: str) -> None:
        """Run one step for an agent. If the agent has changed since it was read, the step changes nothing."""
        match step:
            case StopProcess(launch):
                await self._stop(agent, facts, launch, owner)
            case StartProcess():
                await self._ask(agent, facts, owner)
            case RecordRunning(process):
                await self._adopt(agent, process, owner)
            case RecordEnd(process):
                await self._end(agent, facts, process, owner)
            case CleanUpDeleted():
                await self._clean_up(agent, owner)
            case StoreLaunch(launch):
                await self._intend(agent, facts, launch, owner)
            case GiveUpRestarts():
                await self._go(agent, owner, "error", reason=GIVEN_UP)
            case RecordStopped():
                await self._go(agent, owner, "stopped", pid=None)
            case WaitForRestart() | NothingToDo():
                return

    async def disarm(self, agent: AgentRecord, *, living: bool = False) -> None:
        """Revoke the credentials of all launches of an agent; with `living`, not those of the running launch."""
        async with self._database.reading() as tx:
            numbers = await cleanups.launches_with_credentials(tx, agent, ended=living)
        await self._credentials.revoke(agent.agent_id, *numbers)

    async def _clean_up(self, agent: AgentRecord, owner: str) -> None:
        """Remove processes and files of deleted agents with this id. A repeated or delayed call does no harm."""
        await self.disarm(agent)
        try:
            await self._workers.clear(agent)
        except Conflict as refusal:
            async with self._database.begin() as tx:
                held = await ownership.lock(tx, agent.agent_id, owner)
                await registry.note(tx, held, reason=f"it waits for the clean-up of a deleted agent: {refusal}")
            raise
        async with self._database.begin() as tx:
            await cleanups.done(tx, agent, owner)
        log.info("deleted agent cleaned up", agent_id=agent.agent_id, deletions=agent.deletions)

    async def _stop(self, agent: AgentRecord, facts: AgentFacts, launch: int, owner: str) -> None:
        if facts.is_open and launch == agent.launch and agent.state != "stopping":
            agent = await self._go(agent, owner, "stopping") or agent
        manifest = self._catalogue.manifest(agent.package)
        grace_s = self._settings.stop_grace_s if manifest is None else manifest.graceful_stop_s
        await self._workers.stop(agent.agent_id, launch, grace_s)

    async def _intend(self, agent: AgentRecord, facts: AgentFacts, launch: int, owner: str) -> None:
        async with self._database.begin() as tx:
            if (held := await _unchanged(tx, agent, owner)) is None:
                return
            agent = await _intended(tx, held, launch)
        await self._agents.tell_state(agent)
        await self._ask(agent, facts, owner, new=True)

    async def _ask(self, agent: AgentRecord, facts: AgentFacts, owner: str, *, new: bool = False) -> None:
        self._expect(agent)  # The agent's first heartbeat may arrive before its pid is stored.
        try:
            process = await self._workers.launch(self._order(agent), new=new)
        except (InvalidMessage, Conflict) as refusal:
            # A repeated request would be refused for the same reason, so the refusal counts as a failed launch.
            await self._end(agent, facts, None, owner, why=f"could not be started: {refusal}")
            return
        except Unavailable as refusal:
            await self._note_waiting(agent, owner, f"it waits for the shim: {refusal}")
            raise
        log.info("agent launched", agent_id=agent.agent_id, launch=agent.launch, pid=process.pid)
        if process.running:
            await self._adopt(agent, process, owner)

    async def _note_waiting(self, agent: AgentRecord, owner: str, reason: str) -> None:
        async with self._database.begin() as tx:
            held = await ownership.lock(tx, agent.agent_id, owner)
            if held.reason != reason:
                await registry.note(tx, held, reason=reason)

    def _order(self, agent: AgentRecord) -> LaunchOrder:
        manifest = self._catalogue.usable(agent.package)
        folder = self._catalogue.folder(agent.package)
        assert folder is not None
        home = self._workers.prepare(agent)
        url, credentials = self._credentials.issue(agent.agent_id, agent.launch)
        handoff = ProcessHandoff(
            **fields_of(AgentSpec, agent.spec, capabilities=agent.capabilities),
            agent_id=agent.agent_id,
            launch=agent.launch,
            agent_type=agent.agent_type,
            agent_version=agent.agent_version,
            nats_url=url,
            credentials=credentials,
            credentials_file=str(self._workers.credentials_file(agent)),
            state_dir=str(home / "state"),
            beat_running_s=self._settings.beat_running_s,
            beat_idle_s=self._settings.beat_idle_s,
            nats_authorities=self._nats_authorities,
            restarts=agent.restarts,
        )
        imports = import_root(folder, manifest)
        url = self._credentials.public_url
        return LaunchOrder(handoff=handoff, home=home, manifest=manifest, imports=imports, nats_url=url)

    async def _adopt(self, agent: AgentRecord, process: AgentProcess, owner: str) -> None:
        async with self._database.begin() as tx:
            if (held := await _unchanged(tx, agent, owner)) is not None:
                await registry.change(tx, held, "launched", pid=process.pid)

    async def _end(
        self, agent: AgentRecord, facts: AgentFacts, process: AgentProcess | None, owner: str, *, why: str = ""
    ) -> None:
        """Store the end of a launch. If the agent must restart at once, store and start the next launch too."""
        if process is None and not facts.asked and not why:
            burnt = await self._workers.burn(agent.agent_id, agent.launch)
            if burnt.running:
                return  # A delayed request has started the process; a later step stops the process.
        why = why or how(process, asked=facts.asked)
        failures = (*facts.failures, (process.ended_at if process else None) or self._now())
        if process is not None and process.failed and facts.wanted and due(failures) <= self._now():
            await self._replace(agent, facts, process, failures, owner, why)
            return
        # The credentials are revoked before the end of the launch is stored, because a manager that finds the end
        # stored does not revoke the credentials again.
        await self._credentials.revoke(agent.agent_id, agent.launch)
        async with self._database.begin() as tx:
            if (held := await _unchanged(tx, agent, owner)) is None:
                return
            await launches.ended(tx, held, process, why)
            agent = await _ended(tx, held, process, f"{why}; {GIVEN_UP}" if used_up(failures) else why)
            agent = await _lost_messages(tx, agent, process)
        log.info("agent launch ended", agent_id=agent.agent_id, launch=agent.launch, state=agent.state, reason=why)
        await self._agents.tell_state(agent)

    async def _replace(
        self,
        agent: AgentRecord,
        facts: AgentFacts,
        process: AgentProcess,
        failures: tuple[datetime, ...],
        owner: str,
        why: str,
    ) -> None:
        async with self._database.begin() as tx:
            if (held := await _unchanged(tx, agent, owner)) is None:
                return
            await launches.ended(tx, held, process, why)
            failed = await _lost_messages(tx, await _ended(tx, held, process, why), process)
            began = await _intended(tx, failed, agent.launch + 1)
        log.info("agent launch ended, starting the next one", agent_id=agent.agent_id, launch=agent.launch, reason=why)
        later = msgspec.structs.replace(facts, failures=failures, launch=began.launch, is_open=True, asked=False)
        for changed in (failed, began):
            await self._agents.tell_state(changed)
        try:
            await self._ask(began, later, owner, new=True)
        finally:
            # The old credentials are revoked last, so that the new launch starts at once. If this process crashes here,
            # the next owner of the agent revokes the credentials of every ended launch.
            await self._credentials.revoke(agent.agent_id, agent.launch)

    async def _go(
        self, agent: AgentRecord, owner: str, to: AgentState, *, cites: str = "", **fields: object
    ) -> AgentRecord | None:
        async with self._database.begin() as tx:
            if (held := await _unchanged(tx, agent, owner)) is None:
                return None
            agent = await states.go(tx, held, to, cites=cites, **fields)
        await self._agents.tell_state(agent)
        return agent


async def _intended(tx: Transaction, agent: AgentRecord, launch: int) -> AgentRecord:
    await launches.intend(tx, agent.agent_id, launch, key_of(agent.agent_id, launch))
    # `restarts` counts only launches that follow a failure. After an interruption the state is not `error`.
    restarts = agent.restarts + 1 if agent.state == "error" else agent.restarts
    began: dict[str, Any] = dict.fromkeys(("reason", "exit_code", "pid", "beat", "last_seen"))
    return await states.go(tx, agent, "starting", launch=launch, restarts=restarts, **began)


async def _ended(tx: Transaction, agent: AgentRecord, process: AgentProcess | None, why: str) -> AgentRecord:
    """Store the end of an agent's newest launch in the agent's row, and return the changed agent."""
    cites = f"exit#{agent.launch}"
    told = {"pid": None, "exit_code": exit_code(process), "reason": why}
    if agent.desired == "stopped":
        return await states.go(tx, agent, "stopped", cites=cites, **told)
    if agent.launch < agent.min_launch or (process is not None and process.interrupted and not process.failed):
        return await registry.change(tx, agent, "ended", cites=cites, **told)
    if process is not None and not process.failed:
        return await states.go(tx, agent, "stopped", cites=cites, desired="stopped", **told)
    return await states.go(tx, agent, "error", cites=cites, **told)


async def _lost_messages(tx: Transaction, agent: AgentRecord, process: AgentProcess | None) -> AgentRecord:
    """Store that the messages which the ended process had are lost. Return the changed agent."""
    code, signal = (None, None) if process is None else (process.exit_code, process.signal)
    stopped = (agent.desired == "stopped" and code != 0) or agent.launch < agent.min_launch
    stopped = stopped or (process is not None and process.interrupted)
    return await messages.lose(tx, agent, lost(agent.name, code, signal, stopped=stopped))


async def _unchanged(tx: Transaction, agent: AgentRecord, owner: str) -> AgentRecord | None:
    """Lock an agent and return it, or None if another transaction has changed it. Raises `OwnershipLost`."""
    held = await ownership.lock(tx, agent.agent_id, owner)
    return held if held.version == agent.version else None
