"""Copies the output of agents in process mode from the shim into the stream `AGENT_LOGS`, each line once.

The shim always accepts output, so nothing here can block an agent. The position that is stored with each frame says
which byte comes next: after a crash the next owner continues there. A flood is stored at a bounded rate: of the excess
only the end is kept, and the rest is counted as dropped.
"""

import asyncio
from contextlib import aclosing

import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.adapters.shim import AgentProcesses, OutputPiece
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.lifecycle import AgentProcess
from muster.agent_manager.fleet.domain.log_lines import OutputPosition, cut, numbered
from muster.agent_manager.fleet.reconcilers.processes import ProcessReconciler
from muster.agent_manager.fleet.store import launches
from muster.agent_manager.fleet.store.logs import AgentLogs
from muster.common.clock import Clock
from muster.common.contracts.agent_logs import AgentOutput
from muster.common.faults import NotFound, TimedOut, Unavailable

log = structlog.get_logger()

PAGE_BYTES = 256 << 10
BURST_BYTES, BYTES_PER_S = 2 << 20, 128 << 10
"""Bytes that one agent may store at once, and the rate at which this allowance grows."""
KEPT_OF_A_FLOOD_BYTES = 128 << 10
NOTE_EVERY_S = 60.0


class OutputAllowance:
    """How many bytes of one agent's output may be stored now."""

    def __init__(self, now_s: float) -> None:
        self._left, self._at_s = float(BURST_BYTES), now_s

    def take(self, size: int, now_s: float) -> bool:
        """Use up bytes; return False if none are left."""
        self._left = min(BURST_BYTES, self._left + (now_s - self._at_s) * BYTES_PER_S)
        self._at_s = now_s
        if self._left <= 0:
            return False
        self._left -= size
        return True


class LogCursor:
    """How far one agent's output is stored; `stored` is the stream position of its last frame."""

    def __init__(self, agent_id: str, stored: int, position: OutputPosition, now_s: float) -> None:
        self.agent_id, self.stored, self.position = agent_id, stored, position
        self.allowance = OutputAllowance(now_s)
        self.noted, self.noted_s = position, now_s


class LogShipper:
    """Reconciles agents that have printed. An ended process is done when all of its output is stored."""

    def __init__(
        self, database: ManagerDatabase, workers: AgentProcesses, logs: AgentLogs, *, waker: asyncio.Event, now: Clock
    ) -> None:
        self._database, self._workers, self._logs = database, workers, logs
        self._waker, self._now = waker, now
        self.processes: ProcessReconciler | None = None
        """The loop to wake when the output of an ended process is stored; set when all parts exist."""
        self._mine: dict[str, int] = {}
        """Agents that this manager owns, with their newest launch."""
        self._printed: set[str] = set()
        self._lines: dict[str, LogCursor] = {}
        self._drained: dict[str, int] = {}
        """The ended launch whose output is stored to its end."""

    def keep(self, agent: AgentRecord) -> None:
        """Look at the agent: it may have printed before this manager owned it."""
        self._drained.pop(agent.agent_id, None)
        if self._mine.get(agent.agent_id) != agent.launch:
            self._mine[agent.agent_id] = agent.launch
            self._look_at(agent.agent_id)

    def end(self, agent: AgentRecord) -> bool:
        """Return whether all output of the ended process is stored."""
        self._mine[agent.agent_id] = agent.launch
        if self._drained.get(agent.agent_id, 0) >= agent.launch:
            return True
        self._look_at(agent.agent_id)
        return False

    def forget(self, agent_id: str) -> None:
        """Ignore the agent's output: another manager owns it."""
        self._mine.pop(agent_id, None)
        self._printed.discard(agent_id)
        self._lines.pop(agent_id, None)
        self._drained.pop(agent_id, None)

    async def follow(self) -> None:
        """Wake the loop for each agent that prints, until cancelled."""
        async with aclosing(self._workers.prints()) as prints:
            async for agent_ids in prints:
                for agent_id in agent_ids & self._mine.keys():
                    self._look_at(agent_id)

    async def find(self) -> list[str]:
        """Return the agents that have printed."""
        return list(self._printed)

    async def act(self, agent_id: str) -> None:
        """Store the new output of one agent, launch by launch."""
        self._printed.discard(agent_id)
        if agent_id not in self._mine:
            return
        try:
            await self._drain(agent_id)
        except (Unavailable, TimedOut):
            self._lines.pop(agent_id, None)  # it is unknown whether the last frame was stored: read it from the tail
            self._printed.add(agent_id)
            raise
        except Exception:
            self._lines.pop(agent_id, None)
            self._printed.add(agent_id)
            raise

    async def _drain(self, agent_id: str) -> None:
        line = self._lines.get(agent_id) or await self._line(agent_id)
        processes = await self._workers.of(agent_id)
        for process in processes:
            if process.launch < line.position.launch:
                continue
            if process.launch > line.position.launch:
                line.position = OutputPosition(launch=process.launch)
            if not await self._store(line, process):
                return
        newest = max((process.launch for process in processes), default=line.position.launch)
        for (
            process
        ) in processes:  # the newest ended launch keeps its record, so that a delayed launch finds its key used
            if process.launch < newest - 1 and not process.running:
                await self._workers.forget(agent_id, process.launch)
        await self._note(line, now=not any(process.running for process in processes))
        if not any(process.running for process in processes):
            self._drained[agent_id] = max(newest, self._mine.get(agent_id, 0))
            if self.processes is not None:
                self.processes.look_at(agent_id)

    async def _line(self, agent_id: str) -> LogCursor:
        tail = await self._logs.tail(agent_id)
        position = tail.position if tail else OutputPosition()
        async with self._database.reading() as tx:
            noted = await launches.of(tx, agent_id, self._mine.get(agent_id, 0))
        if (
            noted is not None and noted.log_offset and noted.launch > position.launch
        ):  # the agent was quiet for so long that the end of its log has expired
            position = OutputPosition(launch=noted.launch, offset=noted.log_offset, lines=noted.log_lines)
        line = LogCursor(agent_id, tail.stored if tail else 0, position, asyncio.get_running_loop().time())
        self._lines[agent_id] = line
        return line

    async def _note(self, line: LogCursor, *, now: bool) -> None:
        """Store the position at intervals, because frames of the log expire."""
        now_s = asyncio.get_running_loop().time()
        if line.position != line.noted and (now or now_s - line.noted_s > NOTE_EVERY_S):
            at = line.noted = line.position
            line.noted_s = now_s
            async with self._database.begin() as tx:
                await launches.logged(tx, line.agent_id, at.launch, at.offset, at.lines)

    async def _store(self, line: LogCursor, process: AgentProcess) -> bool:
        """Store the new output of a launch. Returns False if more was printed than may be stored now."""
        while True:
            try:
                page = await self._workers.output(line.agent_id, process.launch, line.position.offset, PAGE_BYTES)
            except NotFound:
                return True
            at_end = len(page.body) < PAGE_BYTES
            lines, size = cut(page.body, ended=at_end and not process.running)
            if not lines:
                return True
            if not line.allowance.take(size, asyncio.get_running_loop().time()):
                await self._skip(line, process)
                return False
            await self._append(line, page, lines, size)

    async def _append(self, line: LogCursor, page: OutputPiece, lines: list[bytes], size: int) -> None:
        position = line.position
        dropped = position.dropped + page.start - position.offset
        frame = AgentOutput(
            agent_id=line.agent_id,
            launch=position.launch,
            lines=numbered(lines, position.lines, self._now()),
            next_offset=page.start + size,
            dropped=dropped,
        )
        line.stored = await self._logs.append(frame, last=line.stored)
        line.position = OutputPosition(
            launch=position.launch, offset=frame.next_offset, lines=position.lines + len(lines), dropped=0
        )

    async def _skip(self, line: LogCursor, process: AgentProcess) -> None:
        """Continue later near the end of the output: the allowance is used up."""
        page = await self._workers.output(line.agent_id, process.launch, -KEPT_OF_A_FLOOD_BYTES, KEPT_OF_A_FLOOD_BYTES)
        position = line.position
        if page.start > position.offset:
            start = page.start + page.body.find(b"\n") + 1
            line.position = OutputPosition(
                launch=position.launch,
                offset=start,
                lines=position.lines,
                dropped=position.dropped + start - position.offset,
            )
        agent_id = line.agent_id
        asyncio.get_running_loop().call_later(1.0, lambda: self._look_at(agent_id))

    def _look_at(self, agent_id: str) -> None:
        if agent_id in self._mine:
            self._printed.add(agent_id)
            self._waker.set()
