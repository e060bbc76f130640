"""Copies the output of agents in process mode from the shim into the stream `AGENT_LOGS`, each line once.

The shim, the program that starts processes, always accepts output, so this module cannot block an agent. Each stored
frame contains the offset of the next byte of output; after a crash the agent's next owner continues at that offset.
Each agent may store only a limited number of bytes per second. If an agent prints more, only the end of its output is
stored; the other bytes and lines are counted as dropped. After the last line of a launch, a frame tells how it ended.
"""

import asyncio
from contextlib import aclosing
from datetime import timedelta

import msgspec
import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.adapters.shim import AgentProcesses, OutputPiece
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.launch_ends import how
from muster.agent_manager.fleet.domain.lifecycle import AgentProcess
from muster.agent_manager.fleet.domain.log_lines import OutputPosition, cut, numbered
from muster.agent_manager.fleet.reconcilers.processes import ProcessReconciler
from muster.agent_manager.fleet.store import launches
from muster.agent_manager.fleet.store.logs import AgentLogs
from muster.common.clock import Clock
from muster.common.contracts.agent_logs import AgentOutput
from muster.common.faults import NotFound, TimedOut, Unavailable
from muster.common.token_bucket import TokenBucket

log = structlog.get_logger()

PAGE_BYTES = 256 << 10
BURST_BYTES, BYTES_PER_S = 2 << 20, 128 << 10
"""The bytes that one agent may store at once, and the bytes per second by which this allowance grows."""
KEPT_OF_A_FLOOD_BYTES = 128 << 10
NOTE_EVERY_S = 60.0
END_IS_OLD = timedelta(hours=1)
"""A launch that ended longer ago has its end in the log, or had it there before the frame expired."""


class LogCursor:
    """How much of one agent's output is stored; `stored` is the stream position of the last stored frame."""

    def __init__(self, agent_id: str, stored: int, position: OutputPosition, now_s: float) -> None:
        self.agent_id, self.stored, self.position = agent_id, stored, position
        self.allowance = TokenBucket(BURST_BYTES, BYTES_PER_S, now_s)
        self.noted, self.noted_s = position, now_s


class LogShipper:
    """Stores the output of agents that have printed; reports when all output of an ended process is stored."""

    def __init__(
        self, database: ManagerDatabase, workers: AgentProcesses, logs: AgentLogs, *, waker: asyncio.Event, now: Clock
    ) -> None:
        self._database, self._workers, self._logs = database, workers, logs
        self._waker, self._now = waker, now
        self.processes: ProcessReconciler | None = None
        """The loop to wake when all output of an ended process is stored; it is set when all parts exist."""
        self._mine: dict[str, int] = {}
        """Ids of agents that this manager owns, with the numbers of their newest launches."""
        self._printed: set[str] = set()
        self._lines: dict[str, LogCursor] = {}
        self._drained: dict[str, int] = {}
        """For each agent, the number of the ended launch whose output is stored completely."""

    def keep(self, agent: AgentRecord) -> None:
        """Begin to store an agent's output, including output from before this manager owned the agent."""
        self._drained.pop(agent.agent_id, None)
        if self._mine.get(agent.agent_id) != agent.launch:
            self._mine[agent.agent_id] = agent.launch
            self._look_at(agent.agent_id)

    def end(self, agent: AgentRecord) -> bool:
        """Return whether all output of the agent's ended process is stored."""
        self._mine[agent.agent_id] = agent.launch
        if self._drained.get(agent.agent_id, 0) >= agent.launch:
            return True
        self._look_at(agent.agent_id)
        return False

    def forget(self, agent_id: str) -> None:
        """Ignore the output of an agent that another manager owns."""
        self._mine.pop(agent_id, None)
        self._printed.discard(agent_id)
        self._lines.pop(agent_id, None)
        self._drained.pop(agent_id, None)

    async def follow(self) -> None:
        """Wake this loop for each agent that prints, until cancelled."""
        async with aclosing(self._workers.prints()) as prints:
            async for agent_ids in prints:
                for agent_id in agent_ids & self._mine.keys():
                    self._look_at(agent_id)

    async def find(self) -> list[str]:
        """Return the ids of agents that have printed."""
        return list(self._printed)

    async def act(self, agent_id: str) -> None:
        """Store the new output of one agent, for one launch after the other."""
        self._printed.discard(agent_id)
        if agent_id not in self._mine:
            return
        try:
            await self._drain(agent_id)
        except (Unavailable, TimedOut):
            self._lines.pop(agent_id, None)  # The next try reads from the log whether the frame was stored.
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
            if not process.running and not line.position.ended:
                await self._append_end(line, how(process, asked=True))
        await self._tell_unstarted(line)
        newest = max((process.launch for process in processes), default=line.position.launch)
        # The shim keeps the record of the newest ended launch, so that a delayed request for it starts no process.
        for process in processes:
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
        # If the agent printed nothing for a long time, all frames of its log may have expired. The position of its last
        # stored output is then read from the database.
        if noted is not None and noted.log_offset and noted.launch > position.launch:
            ended = noted.ended_at is not None and noted.ended_at < self._now() - END_IS_OLD
            position = OutputPosition(
                launch=noted.launch, offset=noted.log_offset, lines=noted.log_lines, line_ends=-1, ended=ended
            )
        line = LogCursor(agent_id, tail.stored if tail else 0, position, asyncio.get_running_loop().time())
        self._lines[agent_id] = line
        return line

    async def _note(self, line: LogCursor, *, now: bool) -> None:
        """Store the position of an agent's output once a minute and at the end, because frames of its log expire."""
        now_s = asyncio.get_running_loop().time()
        if line.position != line.noted and (now or now_s - line.noted_s > NOTE_EVERY_S):
            at = line.noted = line.position
            line.noted_s = now_s
            async with self._database.begin() as tx:
                await launches.logged(tx, line.agent_id, at.launch, at.offset, at.lines)

    async def _store(self, line: LogCursor, process: AgentProcess) -> bool:
        """Store the new output of a launch. Return False if the process printed more than may be stored."""
        while True:
            try:
                page = await self._workers.output(line.agent_id, process.launch, line.position.offset, PAGE_BYTES)
            except NotFound:
                return True
            if page.start > line.position.offset:  # The shim has dropped output that was not stored in time.
                line.position = _first_line_of(page, line.position)
                continue
            at_end = len(page.body) < PAGE_BYTES
            lines, size = cut(page.body, ended=at_end and not process.running)
            if not lines:
                return True
            if not line.allowance.take_on_credit(size, asyncio.get_running_loop().time()):
                await self._skip(line, process)
                return False
            await self._append(line, page, lines, size)

    async def _append(self, line: LogCursor, page: OutputPiece, lines: list[bytes], size: int) -> None:
        position = line.position
        after = position.stored(page.body[:size], len(lines))
        frame = AgentOutput(
            agent_id=line.agent_id,
            launch=position.launch,
            lines=numbered(lines, position.lines, self._now()),
            next_offset=after.offset,
            dropped=position.dropped,
            dropped_lines=position.dropped_lines,
            line_ends=after.line_ends,
        )
        line.stored = await self._logs.append(frame, last=line.stored)
        line.position = after

    async def _append_end(self, line: LogCursor, end: str) -> None:
        """Append how the launch ended, with output that was dropped before its end."""
        position = line.position
        frame = AgentOutput(
            agent_id=line.agent_id,
            launch=position.launch,
            lines=[],
            next_offset=position.offset,
            dropped=position.dropped,
            dropped_lines=position.dropped_lines,
            line_ends=position.line_ends,
            last_n=position.lines,
            ended=end,
            at=self._now(),
        )
        line.stored = await self._logs.append(frame, last=line.stored)
        line.position = msgspec.structs.replace(position, dropped=0, dropped_lines=0, ended=True)

    async def _tell_unstarted(self, line: LogCursor) -> None:
        """Append the end of the newest launch if its process could not be started, so the shim has no record of it."""
        number = self._mine.get(line.agent_id, 0)
        if number <= line.position.launch:
            return
        async with self._database.reading() as tx:
            launch = await launches.of(tx, line.agent_id, number)
        if launch is not None and launch.ended_at is not None and launch.ended_at > self._now() - END_IS_OLD:
            line.position = OutputPosition(launch=number)
            await self._append_end(line, launch.reason or "unknown")

    async def _skip(self, line: LogCursor, process: AgentProcess) -> None:
        """Skip output of an agent that printed more than it may store; continue near the end after one second."""
        page = await self._workers.output(line.agent_id, process.launch, -KEPT_OF_A_FLOOD_BYTES, KEPT_OF_A_FLOOD_BYTES)
        if page.start > line.position.offset:
            line.position = _first_line_of(page, line.position)
        agent_id = line.agent_id
        asyncio.get_running_loop().call_later(1.0, lambda: self._look_at(agent_id))

    def _look_at(self, agent_id: str) -> None:
        if agent_id in self._mine:
            self._printed.add(agent_id)
            self._waker.set()


def _first_line_of(page: OutputPiece, position: OutputPosition) -> OutputPosition:
    """Return the position of the first whole line of a later piece of output. Output before it counts as dropped."""
    first = page.body.find(b"\n") + 1
    line_ends = page.lines_before + bool(first) if page.lines_before >= 0 else -1
    return position.skipped_to(page.start + first, line_ends)
